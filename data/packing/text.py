"""Documents of text, laid end to end in rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from data.batch import segment_row, stack
from data.errors import DataError
from data.packing.base import CUT, NothingLeft, Packed, map_examples
from data.read.bad_records import BadRecords
from data.text import fim
from data.text.base import Tokenizer


class TextChange(NamedTuple):
    """A change of documents before they are packed; none by default.

    Attributes:
      characters, tokens: the most to keep of a document; 0 keeps all. fim_rate, fim_spm: the share
        cut for fill in the middle, and the share of those with the suffix first
        (data/text/fim.py).
    """

    characters: int = 0
    tokens: int = 0
    fim_rate: float = 0.0
    fim_spm: float = 0.5


UNCHANGED = TextChange()


def pack_text(
    examples: Collection[dict], tokenizer: Tokenizer, length: int, change: TextChange = UNCHANGED,
    skipped: Counter | None = None, bad: BadRecords | None = None,
) -> Packed:  # fmt: skip
    """Documents, <bos> text <eos> each (an open model may have no <bos>), laid end to end and split
    every `length` tokens.

    A document that is split continues in the next row with its last token repeated there, masked,
    so that every token except <bos> and the markers of fill in the middle is predicted once.

    Args:
      bad: takes the examples that cannot be tokenized.

    Raises:
      DataError: the tokenizer has no markers for fill in the middle; NothingLeft if no document is
        left.
    """
    if change.fim_rate and not tokenizer.fim_ids:
        raise DataError(
            f"data.fim_rate={change.fim_rate} needs a tokenizer with <fim_prefix>, <fim_suffix> "
            "and <fim_middle>, and this one has none: make one with --config.tokenizer.fim=True "
            "in a new workdir, or set --config.data.fim_rate=0.0"
        )
    skipped = Counter() if skipped is None else skipped
    rows, segments, room = [], [], length
    origins, kept = [[]], []
    weighted = [example for example in examples if example.get("weight", 1) != 0]
    if len(weighted) < len(examples):
        skipped["a weight of 0"] += len(examples) - len(weighted)
    documents = map_examples(weighted, bad, lambda e: _document(e, tokenizer, change, skipped))
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


def _document(
    example: dict, tokenizer: Tokenizer, change: TextChange, skipped: Counter
) -> tuple[np.ndarray, np.ndarray]:
    """(ids [n] int32, loss mask [n] float32) of a document."""
    text, whole = _truncated(example["text"], tokenizer, change, skipped)
    ids, markers, parts = list(tokenizer.prefix), [], None
    if change.fim_rate:
        parts = fim.cut(text, change.fim_rate, change.fim_spm)
    if parts:
        fim_ids, markers = fim.encode(parts, tokenizer)
        markers = [len(ids) + i for i in markers]
        ids += fim_ids
    else:
        ids += tokenizer.encode(text)[: change.tokens or None]
    if whole:
        ids.append(tokenizer.eos_id)
    mask = np.full(len(ids), example.get("weight", 1.0), np.float32)
    mask[markers] = 0
    return np.array(ids, np.int32), mask


def _truncated(
    text: str, tokenizer: Tokenizer, change: TextChange, skipped: Counter
) -> tuple[str, bool]:
    """(the beginning of a text, whether that is all of it)."""
    if change.characters and len(text) > change.characters:
        skipped[f"longer than {change.characters} characters{CUT}"] += 1
        return text[: change.characters], False
    if change.tokens and len(ids := tokenizer.encode(text)) > change.tokens:
        skipped[f"longer than {change.tokens} tokens{CUT}"] += 1
        return tokenizer.decode(ids[: change.tokens]).rstrip("\ufffd"), False  # half a character
    return text, True
