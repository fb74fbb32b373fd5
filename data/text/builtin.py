"""The built-in tokenizers: SentencePiece BPE, characters, or bytes.

All share the special ids below. They are inserted by id and never parsed from text, so no text can
forge a role or an end. `decode(encode(x)) == x` for every valid Unicode `x` (a character tokenizer
raises on a character that it was not made with).

A conversation is rendered as

    <bos> [<|system|> text <eos>] <|user|> text <eos> <|assistant|> text <eos> …
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece
from etils import epath

from data.errors import DataError
from data.schemas.messages import ANSWER_FIELDS
from data.text.base import SPACE, Tokenizer
from interpreter import python

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, UNK, BOS, EOS, SYSTEM, USER, ASSISTANT = range(len(SPECIAL))
# The next ids of a tokenizer made with `fim` (data/text/fim.py).
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
# Never sampled: nothing may open a role or a document inside an answer.
NEVER_SAMPLED = (PAD, UNK, BOS, SYSTEM, USER, ASSISTANT)


def fingerprint(kind: str, model: bytes, fim: bool) -> str:
    """The fingerprint of a built-in tokenizer."""
    kind += "+fim" if fim else ""
    return hashlib.sha256(kind.encode() + b"\0" + model).hexdigest()[:16]


class BuiltinTokenizer(Tokenizer):
    """A SentencePiece, character or byte tokenizer.

    Args:
      kind: `sentencepiece`, `char` or `byte`.
      model: the serialized SentencePiece model; the characters in order of ids; or nothing.
      fim: whether it has the special ids of fill in the middle.

    Attributes:
      specials: names of the special ids, which come first.
    """

    pad_id, prefix, eos_id, bos_id, stop_ids = PAD, (BOS,), EOS, BOS, (EOS,)
    banned_ids: tuple[int, ...] = NEVER_SAMPLED

    def __init__(self, kind: str, model: bytes, fim: bool = False):
        self.kind, self.model = kind, model
        self.specials: tuple[str, ...] = SPECIAL
        if fim:
            self.specials = SPECIAL + FIM
            self.fim_ids = tuple(range(len(SPECIAL), len(self.specials)))
            self.banned_ids = NEVER_SAMPLED + self.fim_ids
        first = len(self.specials)
        if kind == "sentencepiece":
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
            size = self._sp.get_piece_size()
            self.token_bytes = [b""] * first
            self.token_bytes += [self._piece_bytes(i) for i in range(first, size)]
            self._byte_id = {self.token_bytes[i]: i for i in range(size) if self._sp.is_byte(i)}
        elif kind == "char":
            self._id = {c: i for i, c in enumerate(model.decode(), start=first)}
            self.token_bytes = [b""] * first + [c.encode() for c in self._id]
        elif kind == "byte":
            self.token_bytes = [b""] * first + [bytes([b]) for b in range(256)]
        else:
            raise ValueError(f"tokenizer.kind={kind!r}; choose sentencepiece, char or byte")
        self.fingerprint = fingerprint(kind, model, fim)

    def _piece_bytes(self, i: int) -> bytes:
        piece = self._sp.id_to_piece(i)
        return bytes([int(piece[3:5], 16)]) if self._sp.is_byte(i) else (
            piece.replace(SPACE, " ").encode()
        )  # fmt: skip

    def special_name(self, i: int) -> str:
        return self.specials[i] if i < len(self.specials) else ""

    def encode(self, text: str) -> list[int]:
        if self.kind == "byte":
            return [b + len(self.specials) for b in text.encode()]
        if self.kind == "char":
            try:
                return [self._id[c] for c in text]
            except KeyError as e:
                raise ValueError(
                    f"character {e.args[0]!r} is not in the char tokenizer of "
                    f"{len(self._id)}; use tokenizer.kind=sentencepiece or byte, which know all"
                ) from None
        text.encode()  # raises on a lone surrogate, with a clearer error than SentencePiece's
        # SentencePiece cannot encode its own character for a space: its bytes are encoded instead.
        ids = []
        for i, part in enumerate(text.split(SPACE)):
            if i:
                ids += [self._byte_id[bytes([b])] for b in SPACE.encode()]
            for j, line in enumerate(part.split("\0")):
                if j:  # SentencePiece would take NUL for the end of the text
                    ids.append(self._byte_id[b"\0"])
                if line:
                    ids += self._sp.encode(line)
        return ids

    def encode_further(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_marked(self, text: str) -> list[int]:
        names = "|".join(map(re.escape, self.specials))
        parts = re.split(f"({names})", text)
        ids = [[self.specials.index(p)] if i % 2 else self.encode(p) for i, p in enumerate(parts)]
        return [i for part in ids for i in part]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def render(
        self, messages: Sequence[Mapping], tools: list | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, authors = [BOS], [-1]
        for number, message in enumerate(messages):
            _check_message(message, number, tools)
            text = self.encode(message["content"])
            author = number if message["role"] == "assistant" else -1
            ids += [ROLES[message["role"]], *text, EOS]
            authors += [-1] + [author] * (len(text) + 1)
        return np.array(ids, np.int32), np.array(authors, np.int32)

    def render_prompt(self, messages: Sequence[Mapping], tools: list | None = None) -> np.ndarray:
        return np.append(self.render(messages, tools)[0], np.int32(ASSISTANT))

    def save(self, directory: epath.PathLike) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.model").write_bytes(self.model)
        header: dict[str, Any] = {"kind": self.kind, "fingerprint": self.fingerprint}
        if self.fim_ids:
            header["fim"] = True
        (directory / "tokenizer.json").write_text(json.dumps(header) + "\n")


def _check_message(message: Mapping, number: int, tools: list | None) -> None:
    """Raises DataError for a message that the built-in chat format cannot express."""
    field = next((f"'{key}'" for key in ANSWER_FIELDS if key in message), "")
    if message["role"] not in ROLES:
        field = f"role {message['role']!r}"
    if field or tools:
        place = f"messages[{number}]: {field}" if field else "'tools'"
        raise DataError(
            f"{place}: the built-in chat format has no place for it; start from an open model "
            f"whose template has one ({python()} -m train.convert, "
            "--config.init_from.policy=WORKDIR)",
            "chat_format",
        )
