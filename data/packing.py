"""Examples -> rows of one length: cut, packed or padded, once, when a data set is opened.

Whatever changes the number of rows happens here, so that the loader maps one to one and a batch is
a function of the step alone. Rows are dicts of arrays with a leading dimension (data/batch.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.bad_records import BadRecords
from data.batch import segment_row, stack
from data.errors import DataError
from data.rankings import NO_ANSWER, cut, place, ranking_row, render_ranking
from data.text import fim
from data.text.chat import render, render_prompt
from data.text.tokenizer import Tokenizer

ON_LONG = ("error", "cut", "drop")
# Reasons of these ends count what was used, its end left out; all others what was not used.
CUT = ", cut"


class NothingLeft(DataError):
    """No example is left to make rows of."""


def _too_long(where: str, have: int, length: int, setting: str):
    return DataError(
        f"{where}: {have} tokens, and {setting} is {length}. Raise it, or set "
        "--config.data.on_long=cut (keep the beginning) or =drop (leave such examples out)"
    )


def _each(examples, bad: BadRecords | None, function):
    """Yields (example, function(example)); one that raises goes to `bad`."""
    bad = bad or BadRecords()
    for example in examples:
        try:
            made = function(example)
        except ValueError as error:  # of a chat template or a tokenizer, too
            bad.add(example["where"], error)
        else:
            yield example, made


class Packed(NamedTuple):
    """Rows of examples.

    Attributes:
      rows: data/batch.py's. examples: those that are in them. origins: for each row which of the
        examples it holds, or a part of.
    """

    rows: dict[str, np.ndarray]
    examples: list
    origins: list

    def where(self, number: int) -> list[str]:
        """Where the examples of a row were read."""
        return [self.examples[i]["where"] for i in self.origins[number]]


class TextChange(NamedTuple):
    """What is done to documents before they are packed; by default nothing.

    Attributes:
      characters, tokens: at most so many stay of one; 0 is all. fim_rate, fim_spm: which are cut
        for fill in the middle, and which of those with the suffix first (data/text/fim.py).
    """

    characters: int = 0
    tokens: int = 0
    fim_rate: float = 0.0
    fim_spm: float = 0.5


def _truncated(text: str, tokenizer: Tokenizer, change: TextChange, skipped: Counter):
    """(the text, or its beginning; whether that is all of it)."""
    if change.characters and len(text) > change.characters:
        skipped[f"longer than {change.characters} characters{CUT}"] += 1
        return text[: change.characters], False
    if change.tokens and len(ids := tokenizer.encode(text)) > change.tokens:
        skipped[f"longer than {change.tokens} tokens{CUT}"] += 1
        return tokenizer.decode(ids[: change.tokens]).rstrip("\ufffd"), False  # half a character
    return text, True


def _document(example, tokenizer: Tokenizer, change: TextChange, skipped: Counter):
    """(ids [n] int32, loss mask [n] float32) of a document."""
    text, whole = _truncated(example["text"], tokenizer, change, skipped)
    ids, signs, parts = list(tokenizer.prefix), [], None
    if change.fim_rate:
        parts = fim.cut(text, change.fim_rate, change.fim_spm)
    if parts:
        moved, signs = fim.encode(parts, tokenizer)
        signs = [len(ids) + i for i in signs]
        ids += moved
    else:
        ids += tokenizer.encode(text)[: change.tokens or None]
    if whole:
        ids.append(tokenizer.eos_id)
    mask = np.full(len(ids), example.get("weight", 1.0), np.float32)
    mask[signs] = 0
    return np.array(ids, np.int32), mask


AS_IT_IS = TextChange()


def pack_text(
    examples, tokenizer: Tokenizer, length: int, change=AS_IT_IS, skipped: Counter | None = None,
    bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Documents, <bos> text <eos> each (an open model may have no <bos>), laid end to end and split
    every `length` tokens.

    A document that is split goes on in the next row with its last token repeated there, masked, so
    that every token but <bos> (and the signs of fill in the middle) is predicted exactly once.

    Args:
      bad: takes the examples that cannot be made into ids, here and below.

    Raises:
      DataError: the tokenizer has no signs for fill in the middle.
    """
    if change.fim_rate and not tokenizer.fim_ids:
        raise DataError(
            f"data.fim_rate={change.fim_rate} takes a tokenizer with <fim_prefix>, <fim_suffix> "
            "and <fim_middle>, and this one has none: make one with --config.tokenizer.fim=True "
            "in a new workdir, or set --config.data.fim_rate=0.0"
        )
    skipped = Counter() if skipped is None else skipped
    rows, segments, room = [], [], length
    origins, kept = [[]], []
    weighed = [example for example in examples if example.get("weight", 1) != 0]
    if len(weighed) < len(examples):
        skipped["a weight of 0"] += len(examples) - len(weighed)
    documents = _each(weighed, bad, lambda e: _document(e, tokenizer, change, skipped))
    for example, (ids, mask) in documents:
        start = 0
        while start < len(ids) - 1:
            if room < 2:
                rows.append(segment_row(segments, length))
                segments, room = [], length
                origins.append([])
            piece = ids[start : start + room]
            segments.append((piece, mask[start : start + room]))
            origins[-1].append(len(kept))
            room -= len(piece)
            start += len(piece) - 1
        kept.append(example)
    if segments:
        rows.append(segment_row(segments, length))
    if not rows:
        raise NothingLeft(f"no document is left to learn from: {dict(skipped)}")
    return Packed(stack(rows), kept, origins)


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Bins of `length`, each a list of indices: first-fit decreasing, by the fullest that fits.

    (Ding et al. 2024, arXiv:2404.10830, for why: no example is cut, and hardly a token is wasted.)
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room left -> bins
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[index]
        room = next((r for r in range(size, length + 1) if by_room[r]), None)
        if room is None:
            bins.append([])
            number, room = len(bins) - 1, length
        else:
            number = by_room[room].pop()
        bins[number].append(index)
        by_room[room - size].append(number)
    return [sorted(b) for b in bins]


def _render_chat(example, tokenizer):
    ids, mask = render(tokenizer, example["messages"], example.get("tools"))
    weights = [m.get("weight", 1.0) for m in example["messages"] if m["role"] == "assistant"]
    if not mask[1:].any() and any(weights or [1]):
        raise DataError("no token of an answer to learn from", "no_answer")
    return ids, mask


def _rendered_chats(examples, tokenizer, length, on_long, skipped: Counter, bad):
    """Yields (example, ids, mask) of what fits a row and has something to learn."""
    rendered = _each(examples, bad, lambda example: _render_chat(example, tokenizer))
    for example, (ids, mask) in rendered:
        if not mask.any():
            skipped["every answer has a weight of 0"] += 1
        elif len(ids) <= length:
            yield example, ids, mask
        elif on_long == "error":
            raise _too_long(example["where"], len(ids), length, "data.length")
        elif on_long == "drop":
            skipped[f"longer than {length} tokens, drop"] += 1
        elif not mask[1:length].any():
            skipped[NO_ANSWER] += 1
        else:
            skipped[f"longer than {length} tokens{CUT}"] += 1
            yield example, ids[:length], mask[:length]


def pack_chats(
    examples, tokenizer, length: int, on_long: str, pack: bool, skipped: Counter,
    bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Conversations -> packed rows (or one a row), loss on the assistant's tokens alone.

    Raises:
      DataError: an example is longer than a row (`on_long="error"`); NothingLeft if all are left
        out.
    """
    rendered = list(_rendered_chats(examples, tokenizer, length, on_long, skipped, bad))
    if not rendered:
        raise NothingLeft(f"no conversation fits data.length={length}: {dict(skipped)}")
    bins = [[i] for i in range(len(rendered))]
    if pack:
        bins = best_fit([len(ids) for _, ids, _ in rendered], length)
    rows = stack([segment_row([rendered[i][1:] for i in b], length) for b in bins])
    return Packed(rows, [example for example, _, _ in rendered], bins)


# Rows that are open at a time when rankings are packed: more wastes less, and takes longer.
_OPEN_ROWS = 32


def _rendered_rankings(
    examples, tokenizer, length, sub_rows, share_prompt, on_long, skipped: Counter, bad
):
    """Yields a Ranking of each example that fits a row."""

    bad = bad or BadRecords()
    rendered = _each(examples, bad, lambda e: render_ranking(e, tokenizer, share_prompt))
    for example, ranking in rendered:
        longest = max(map(len, ranking.ids))
        if longest > length:
            if on_long == "error":
                raise _too_long(example["where"], longest, length, "data.length")
            if on_long == "drop":
                skipped[f"longer than {length} tokens, drop"] += 1
                continue
            ranking = cut(ranking, length)
            if isinstance(ranking, str):
                skipped[ranking] += 1
                continue
        if place([length] * sub_rows, ranking.sizes, ranking.trunk) is None:
            message = (
                f"its {len(ranking.ids)} candidates do not fit {sub_rows} rows of {length} tokens; "
                "raise --config.data.sub_rows"
            )
            bad.add(example["where"], DataError(message, "too_many_candidates"))
            continue
        if longest > length:
            skipped[f"longer than {length} tokens{CUT}"] += 1
        yield ranking


def preference_rows(
    examples, tokenizer, length: int, sub_rows: int, share_prompt: bool, on_long: str,
    skipped: Counter, kinds, bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Rankings -> rows of `sub_rows` × `length` tokens (data/batch.py), first-fit.

    The reward is read at the <eos> that ends the answer; a candidate cut short is read at its last
    token. `kinds` is the list of names that `kind` counts in.

    One that is cut before its answer, or down to another that is ranked apart, is left out with its
    ranking, counted.

    Raises:
      DataError: a candidate is longer than `length` and `on_long` is "error"; NothingLeft if all
        are left out.
    """
    bins, open_rows, kept = [], [], []
    rankings = _rendered_rankings(
        examples, tokenizer, length, sub_rows, share_prompt, on_long, skipped, bad
    )
    for ranking in rankings:
        for row in open_rows:
            placed = place(row["rooms"], ranking.sizes, ranking.trunk)
            if placed:
                break
        else:
            row = {"rooms": [length] * sub_rows, "rankings": [], "numbers": []}
            placed = place(row["rooms"], ranking.sizes, ranking.trunk)
            bins.append(row)
            open_rows = [*open_rows, row][-_OPEN_ROWS:]
        row["rooms"] = placed[0]
        row["rankings"].append((ranking, placed[1]))
        row["numbers"].append(len(kept))
        kept.append(ranking.example)
    if not bins:
        raise NothingLeft(f"no preference fits data.length={length}: {dict(skipped)}")
    most = max(sum(len(ranking.ids) for ranking, _ in row["rankings"]) for row in bins)
    rows = stack([ranking_row(b["rankings"], length, sub_rows, most, kinds) for b in bins])
    if not share_prompt:
        del rows["branch_ids"]
    return Packed(rows, kept, [row["numbers"] for row in bins])


def prompt_rows(
    examples, tokenizer, length: int, on_long: str, skipped: Counter,
    bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Prompts that await an answer -> `tokens` [R, P] left padded, `mask` [R, P] bool, and
    `example` [R] int32, which example each is, in order.

    Raises:
      DataError: a prompt is longer than P and `on_long` is not "drop" (a cut one asks nothing).
    """
    rows, kept = [], []
    rendered = _each(
        examples, bad, lambda e: render_prompt(tokenizer, e["messages"], e.get("tools"))
    )
    for example, ids in rendered:
        if len(ids) > length:
            if on_long != "drop":
                raise DataError(
                    f"{example['where']}: a prompt of {len(ids)} tokens, and "
                    f"rl.prompt_length is {length}. Raise it, or set --config.data.on_long=drop"
                )
            skipped[f"prompt longer than {length} tokens, drop"] += 1
            continue
        row = {"tokens": np.zeros(length, np.int32), "mask": np.zeros(length, bool)}
        row["example"] = np.int32(len(kept))
        row["tokens"][length - len(ids) :] = ids
        row["mask"][length - len(ids) :] = True
        rows.append(row)
        kept.append(example)
    if not rows:
        raise NothingLeft(f"no prompt fits rl.prompt_length={length}: {dict(skipped)}")
    return Packed(stack(rows), kept, [[i] for i in range(len(kept))])
