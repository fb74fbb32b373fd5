"""Conversations, packed whole into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data.batch import segment_row, stack
from data.errors import DataError
from data.packing.base import CUT, NO_ANSWER, NothingLeft, Packed, map_examples, too_long
from data.read.bad_records import BadRecords
from data.text.base import Tokenizer
from data.text.chat import render


def pack_chats(
    examples: Iterable[dict], tokenizer: Tokenizer, length: int, on_long: str, pack: bool,
    skipped: Counter, bad: BadRecords | None = None, shorter: Sequence[int] = (),
) -> Packed:  # fmt: skip
    """Conversations -> rows, packed or one a row, with the loss on the assistant's tokens alone.

    Args:
      bad: takes the examples that cannot be rendered. shorter: as of `nested_fit`.

    Raises:
      DataError: an example is longer than a row (`on_long="error"`); NothingLeft if all are left
        out.
    """
    rendered = list(_rendered(examples, tokenizer, length, on_long, skipped, bad))
    if not rendered:
        raise NothingLeft(f"no conversation fits data.length={length}: {dict(skipped)}")
    bins = [[(i, 0)] for i in range(len(rendered))]
    if pack:
        bins = nested_fit([len(ids) for _, ids, _ in rendered], [*shorter, length])
    rows = [
        segment_row([rendered[i][1:] for i, _ in b], length, [start for _, start in b])
        for b in bins
    ]
    indices = [[i for i, _ in b] for b in bins]
    return Packed(stack(rows), [example for example, _, _ in rendered], indices)


def nested_fit(sizes: Sequence[int], lengths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Bins of the last length, each a list of (index, start), that can be cut into bins of every
    other length: what fits one is not cut, and what does not begins at the start of one.

    Args:
      lengths: ascending, each a divisor of the next.
    """
    blocks, extents = [[(index, 0)] for index in range(len(sizes))], list(sizes)
    for length in lengths:
        merged, ends = [], []
        for numbers in best_fit(extents, length):
            block, end = [], 0
            for number in sorted(numbers, key=lambda n: extents[n] <= length):
                block += [(index, end + start) for index, start in blocks[number]]
                end += extents[number]
            merged.append(block)
            ends.append(-(-end // length) * length)
        blocks, extents = merged, ends
    return blocks


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Bins of `length`, each a list of indices: first-fit decreasing, into the fullest bin that has
    room. What is longer gets as many as it fills, and the room in the last of them is used.

    (Ding et al. 2024, arXiv:2404.10830: no example is cut, and almost no token is wasted.)
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
        by_room[(room - size) % length].append(number)
    return [sorted(b) for b in bins]


def _render(example: dict, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = render(tokenizer, example["messages"], example.get("tools"))
    weights = [m.get("weight", 1.0) for m in example["messages"] if m["role"] == "assistant"]
    if not mask[1:].any() and any(weights or [1]):
        raise DataError("no token of an answer to learn from", "no_answer")
    return ids, mask


def _rendered(
    examples, tokenizer: Tokenizer, length: int, on_long: str, skipped: Counter,
    bad: BadRecords | None,
) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:  # fmt: skip
    """Yields (example, ids, mask) of the examples that fit a row and have something to learn."""
    rendered = map_examples(examples, bad, lambda example: _render(example, tokenizer))
    for example, (ids, mask) in rendered:
        if not mask.any():
            skipped["every answer has a weight of 0"] += 1
        elif len(ids) <= length:
            yield example, ids, mask
        elif on_long == "error":
            raise too_long(example["where"], len(ids), length)
        elif on_long == "drop":
            skipped[f"longer than {length} tokens, drop"] += 1
        elif not mask[1:length].any():
            skipped[NO_ANSWER] += 1
        else:
            skipped[f"longer than {length} tokens{CUT}"] += 1
            yield example, ids[:length], mask[:length]
