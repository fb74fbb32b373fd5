"""Encoding with the `tokenizers` library: plain text, text that continues other text, and rendered
conversations.

A conversation is tokenized as a whole, as `transformers` does, and its parts are located by
offsets. Two things differ from `transformers`: the text of a special token in a message stays plain
text, and if the last answer would change the tokens of the prompt before it, the two are tokenized
separately (`Encoder.page`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import tokenizers

from data.errors import DataError
from data.text.base import SPACE

# Marks the special tokens that a template wrote, where a message contains the text of one. It is a
# Unicode noncharacter, so no text should contain it.
_MARK = "\U0010ffff"


class Tokens(NamedTuple):
    """Ids, and the (start, end) of each in the text, in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """An encoder around a tokenizer of the library.

    Args:
      inner: the tokenizer; it is modified. special_ids: {text: id} of its special tokens.
    """

    def __init__(self, inner: tokenizers.Tokenizer, special_ids: Mapping[str, int]):
        self._inner, self._special_ids = inner, dict(special_ids)
        self._control = set(self._special_ids.values())
        self._added = set(inner.get_added_tokens_decoder()) | self._control
        inner.no_padding()
        inner.no_truncation()
        inner.post_processor = None  # it may exclude spaces from the offsets
        names = sorted(self._special_ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def text(self, text: str) -> list[int]:
        """Ids of plain text, none of them special."""
        ids = _encode(self._inner, text, parse=False).ids
        # In a Unigram model the text of a special token may also be an ordinary piece.
        return ids if self._control.isdisjoint(ids) else _encode(self._guarded, text, False).ids

    def further(self, text: str) -> list[int]:
        """Ids of text that continues other text, without the space that some tokenizers put before
        a text."""
        return _encode(self._unprefixed, text, parse=False).ids

    def page(
        self, text: str, content: Collection[tuple[int, int]], start: int | None = None
    ) -> Tokens:
        """Tokens of a rendered conversation.

        Args:
          content: (start, end) of the text that did not come from the template: no special token is
            recognized there.
          start: where the last answer begins. A token may straddle this position. A space that
            SentencePiece joins to a word (`▁Paris`) stays with the word, as in the whole; text that
            a special token absorbs (`rstrip`) stays with it; any other token is split there, so
            that the tokens before the answer are those of the prompt that it is sampled after.
        """
        tokens = self._whole(text, self._template_specials(text, content))
        if start is None:
            return tokens
        # Added tokens separate pieces of text: compare the piece around the start of the answer.
        ids, offsets = tokens
        added = [n for n in range(len(ids)) if self._is_added(text, ids[n], offsets[n])]
        first = max((n for n in added if offsets[n][0] < start), default=-1)
        last = min((n for n in added if offsets[n][0] >= start), default=len(ids))
        begin = 0 if first < 0 else offsets[first][0]
        end = len(text) if last == len(ids) else offsets[last][0]
        first, before = max(first, 0), text[begin:start]
        match = self._pattern.search(before) if ids[first] in self._control else None
        opened = self._whole(before, [match.span()] if match else [])
        piece = range(first, last)
        across = next((n for n in piece if offsets[n][0] < start < offsets[n][1]), None)
        if across is None:
            count = sum(offsets[n][1] <= start for n in piece)
            unchanged = opened.ids == ids[first : first + count]
        else:
            name = self._inner.id_to_token(ids[across]) or ""
            joined = name.startswith(SPACE) and not text[offsets[across][0] : start].strip(" ")
            unchanged = joined or across in added
        if unchanged:
            return tokens
        answer = _encode(self._unprefixed, text[start:end], parse=False)
        return Tokens(
            ids[:first] + opened.ids + answer.ids + ids[last:],
            offsets[:first]
            + [(a + begin, b + begin) for a, b in opened.offsets]
            + [(a + start, b + start) for a, b in answer.offsets]
            + offsets[last:],
        )

    def _is_added(self, text: str, index: int, offsets) -> bool:
        """Whether a token is an added one whose text is there: the unknown token may be added, and
        stands for any character."""
        return (
            index in self._added and (self._inner.id_to_token(index) or "") in text[slice(*offsets)]
        )

    def _template_specials(self, text: str, content) -> list[tuple[int, int]]:
        """(start, end) of the special tokens that the template itself wrote."""
        inside = np.zeros(len(text), bool)
        for start, end in content:
            inside[start:end] = True
        spans, at = [], 0
        while match := self._pattern.search(text, at):
            from_template = not inside[slice(*match.span())].any()
            if from_template:
                spans.append(match.span())
            at = match.end() if from_template else match.start() + 1
        return spans

    def _whole(self, text: str, specials) -> Tokens:
        """Tokens of a text in which only `specials` (start, end) are special tokens."""
        if [m.span() for m in self._pattern.finditer(text)] == specials:
            encoding = _encode(self._inner, text, parse=True)
            return Tokens(encoding.ids, encoding.offsets)
        if _MARK in text:
            raise DataError("a message holds U+10FFFF, which is no character", "bad_character")
        parts, origin, at = [], [], 0
        for start, end in [*specials, (len(text), len(text))]:
            parts.append(text[at:start] + _MARK * (start < end) + text[start:end])
            origin += [*range(at, start), *[start] * (start < end), *range(start, end)]
            at = end
        origin.append(len(text))
        encoding = _encode(self._guarded, "".join(parts), parse=False)
        return Tokens(encoding.ids, [(origin[a], origin[b]) for a, b in encoding.offsets])

    @functools.cached_property
    def _guarded_spec(self) -> dict:
        """The tokenizer.json with _MARK before the names of its special tokens."""
        spec = json.loads(self._inner.to_str())
        renamed = {name: _MARK + name for name in self._special_ids}
        for token in spec["added_tokens"]:
            if token["content"] in renamed:
                token |= {"content": renamed[token["content"]], "special": False}
        model = spec["model"]
        merged = {part for merge in model.get("merges", ()) for part in _pair(merge)}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {
                name if name in merged else renamed.get(name, name): index
                for name, index in model["vocab"].items()
            }
        else:
            model["vocab"] = [[renamed.get(name, name), score] for name, score in model["vocab"]]
        if model.get("unk_token") in renamed:
            model["unk_token"] = renamed[model["unk_token"]]
        return spec

    @functools.cached_property
    def _guarded(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(json.dumps(self._guarded_spec))

    @functools.cached_property
    def _unprefixed(self) -> tokenizers.Tokenizer:
        """The tokenizer without the space that it may put before a text."""
        spec = _without_prefix(self._guarded_spec)
        if spec == self._guarded_spec:
            return self._guarded
        return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _pair(merge) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _encode(inner: tokenizers.Tokenizer, text: str, parse: bool) -> tokenizers.Encoding:
    """Encodes text; `parse` recognizes special tokens in it."""
    inner.encode_special_tokens = not parse
    return inner.encode(text, add_special_tokens=False)


def _without_prefix(spec: dict) -> dict:
    """A tokenizer.json whose normalizer and pre-tokenizer put no space before a text."""
    kinds = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}

    def plain(part):
        if not part:
            return part
        if part["type"] == "Sequence":
            name = next(name for name in kinds.values() if name in part)
            inside = [plain(p) for p in part[name]]
            return part | {name: [p for p in inside if p]}
        if part["type"] == "Prepend":
            return None
        if part["type"] == "Metaspace":
            return part | {"prepend_scheme": "never"}
        return part | {"add_prefix_space": False} if "add_prefix_space" in part else part

    return spec | {name: plain(spec.get(name)) for name in kinds}
