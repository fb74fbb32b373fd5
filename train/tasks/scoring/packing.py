"""Rows of many pieces.

Axes: R rows, T row length, S scored tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.packing.chats import best_fit
from model.kernels.dispatch import LONG
from train.tasks.scoring.pieces import Piece

# Row lengths are multiples of it: the block of attention kernels.
LANES = 128
# Row lengths and numbers of rows are chosen for pieces of up to `SHORT` tokens, of up to twice as
# many, and so on, so that short ones do not pay for the attention of long rows.
SHORT = 512


class Rows(NamedTuple):
    """Packed pieces.

    Attributes:
      tokens, positions, segment_ids, branch_ids: [R, T] int32, for `Transformer.hidden`.
      places, targets: [R, S] int32; places of padding are 0. owners: [R, S] int32; -1 is padding.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    branch_ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    owners: np.ndarray


def _row_length(sizes: Sequence[int], embed_dim: int) -> int:
    """The row length that computes the least for pieces of these sizes."""
    first = -(-max(sizes) // LANES) * LANES
    step = max(LANES, 1 << (first.bit_length() - 3))  # few candidates for long rows
    lengths = range(-(-first // step) * step, min(2 * first, LONG) + 1, step)

    def total(length):
        # Attention in a row of 8·embed_dim tokens takes as long as everything else.
        return len(best_fit(sizes, length)) * length * (1 + length / (8 * embed_dim))

    return min(lengths or [first], key=total)


class Batches(NamedTuple):
    """Rows of pieces of one length.

    Attributes:
      length: T. forks: whether any piece has a branch.
      rows: those with the most to score come first, so that neighbours have alike many.
    """

    length: int
    forks: bool
    rows: list[list[Piece]]


def pack(pieces: Sequence[Piece], embed_dim: int) -> Iterator[Batches]:
    """Yields all pieces in rows, the longest rows first, for a model of this width."""
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(((piece.size - 1) // SHORT).bit_length(), []).append(piece)
    for _, group in sorted(groups.items(), reverse=True):
        sizes = [piece.size for piece in group]
        length = _row_length(sizes, embed_dim)
        rows = [[group[i] for i in row] for row in best_fit(sizes, length)]
        rows.sort(key=lambda row: -sum(len(piece.targets) for piece in row))
        yield Batches(length, any(piece.branches.any() for piece in group), rows)


def fill(rows: Sequence[Sequence[Piece]], count: int, length: int, multiple: int) -> Rows:
    """The arrays of rows of pieces.

    Args:
      count: R, at least the number of rows; the others are padding. length: T. multiple: S is a
        multiple of it.
    """
    most = max(sum(len(piece.targets) for piece in row) for row in rows)
    width = -(-most // multiple) * multiple
    tokens, positions, segments, branches = np.zeros((4, count, length), np.int32)
    places, targets, owners = np.zeros((3, count, width), np.int32)
    owners -= 1
    for r, row in enumerate(rows):
        at = first = 0
        for segment, piece in enumerate(row, 1):
            end, last = at + len(piece.tokens), first + len(piece.targets)
            tokens[r, at:end], positions[r, at:end] = piece.tokens, piece.positions
            segments[r, at:end], branches[r, at:end] = segment, piece.branches
            places[r, first:last], targets[r, first:last] = piece.places + at, piece.targets
            owners[r, first:last] = piece.owners
            at, first = end, last
    return Rows(tokens, positions, segments, branches, places, targets, owners)
