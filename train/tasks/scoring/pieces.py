"""Pieces of rows: passages that begin alike share their beginning, which is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from model.kernels.dispatch import LONG
from train.tasks.scoring.tokens import Passage

# The share of a group's tokens that joining it to another must save: larger pieces make longer
# rows, whose attention takes longer.
LEAST_SAVED = 0.25


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


class Group(NamedTuple):
    """Passages, with their numbers, that share the first `trunk` ids that are read; of a single one
    these are all."""

    passages: list[tuple[int, Passage]]
    trunk: int

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        rests = sum(len(passage.ids) - 1 - self.trunk for _, passage in self.passages)
        return self.trunk + rests

    @property
    def size(self) -> int:
        """As of its Piece."""
        return max(self.tokens, sum(passage.scored for _, passage in self.passages))

    def joined(self, other: Group) -> Group:
        first, second = self.passages[0][1].ids, other.passages[0][1].ids
        most = min(self.trunk, other.trunk)
        pairs = enumerate(zip(first[:most], second[:most], strict=True))
        trunk = next((i for i, (a, b) in pairs if a != b), most)
        return Group(self.passages + other.passages, trunk)


def make_pieces(groups: Iterable[Sequence[Passage]], forks: bool) -> list[Piece]:
    """Pieces of passages, which are numbered through all groups.

    Passages of a group are neighbours: the choices of a question. Where they share their beginning
    they are a piece of at most `LONG` tokens, and so are neighbouring groups where that computes
    fewer tokens, as with the same examples before all questions.

    Args:
      forks: whether a piece may have branches.
    """
    start, single = 0, list[list[Group]]()
    for passages in groups:
        numbered = enumerate(passages, start)
        single.append([Group([(n, p)], len(p.ids) - 1) for n, p in numbered])
        start += len(passages)
    if not forks:
        return [_piece(group) for own in single for group in own]
    joined = [group for own in single for group in _join(own)]
    joined.sort(key=lambda group: group.passages[0][1].ids)
    return [_piece(group) for group in _join(joined)]


def _join(groups: Iterable[Group]) -> Iterator[Group]:
    """Yields groups, neighbours joined where that saves a good part of the second."""
    current: Group | None = None
    for group in groups:
        if current:
            joined = current.joined(group)
            saved = current.tokens + group.tokens - joined.tokens
            if saved > LEAST_SAVED * group.tokens and joined.size <= LONG:
                current = joined
                continue
            yield current
        current = group
    if current:
        yield current


def _piece(group: Group) -> Piece:
    passages, trunk = group
    tokens, positions, branches = list(passages[0][1].ids[:trunk]), list(range(trunk)), [0] * trunk
    places, targets, owners = [], [], []
    for branch, (number, (ids, scored, _)) in enumerate(passages, 1):
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
