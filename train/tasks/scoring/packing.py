"""Rows of many passages, in which passages that begin alike share their beginning.

Axes: R rows, T row length, S scored tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.packing.chats import best_fit
from model.kernels.dispatch import LONG
from train.tasks.scoring.tokens import Passage

# Row lengths are multiples of it: the block of attention kernels.
LANES = 128
# Row lengths and numbers of rows are chosen for pieces of up to `SHORT` tokens, of up to twice as
# many, and so on, so that short ones do not pay for the attention of long rows.
SHORT = 512


class Piece(NamedTuple):
    """A segment of a row: one passage, or a trunk that passages share and a branch for each.

    Attributes:
      tokens, positions, branches: [n] int32; branch 0 is the trunk.
      places: [s] int32, the index in the segment at which each scored token is predicted.
      targets: [s] int32, the scored tokens. owners: [s] int32, numbers of their passages.
    """

    tokens: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    owners: np.ndarray

    @property
    def size(self) -> int:
        """The room that it takes in a row, which has as many places to score as tokens."""
        return max(len(self.tokens), len(self.targets))


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


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of ids that all rows begin with alike."""
    shortest, longest = min(rows), max(rows)  # in alphabetical order
    pairs = enumerate(zip(shortest, longest, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(shortest), len(longest)))


def make_pieces(passages: Sequence[tuple[int, Passage]], forks: bool) -> Iterator[Piece]:
    """Yields pieces of passages that may share their beginning, given with their numbers.

    Args:
      forks: whether a piece may have branches; its size is then at most `LONG`.
    """
    read = [passage.ids[:-1] for _, passage in passages]
    trunk = common_length(read) if forks and read else 0
    if not trunk:
        for passage in passages:
            yield _piece([passage], 0)
        return
    group: list[tuple[int, Passage]] = []
    tokens, targets = trunk, 0
    for number, passage in passages:
        tokens += len(passage.ids) - 1 - trunk
        targets += passage.scored
        if group and max(tokens, targets) > LONG:
            yield _piece(group, trunk)
            group, tokens, targets = [], len(passage.ids) - 1, passage.scored
        group.append((number, passage))
    yield _piece(group, trunk)


def _piece(group: Sequence[tuple[int, Passage]], trunk: int) -> Piece:
    """One piece; a single passage has no branch."""
    trunk = len(group[0][1].ids) - 1 if len(group) == 1 else trunk
    tokens, positions, branches = list(group[0][1].ids[:trunk]), list(range(trunk)), [0] * trunk
    places, targets, owners = [], [], []
    for branch, (number, (ids, scored, _)) in enumerate(group, 1):
        end = len(ids) - 1
        shift = len(tokens) - trunk
        tokens += ids[trunk:end]
        positions += range(trunk, end)
        branches += [branch] * (end - trunk)
        places += [p if p < trunk else p + shift for p in range(end - scored, end)]
        targets += ids[-scored:]
        owners += [number] * scored
    lists = tokens, positions, branches, places, targets, owners
    return Piece(*(np.array(x, np.int32) for x in lists))


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
