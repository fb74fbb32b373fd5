"""Where the examples in rows were read, in arrays: a run can name the lines of a batch at any time,
without the examples themselves in memory, also with rows from a cache."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from data.packing.base import Packed


@dataclasses.dataclass(frozen=True)
class Origins:
    """The places of the examples in R rows.

    Attributes:
      places: uint8, the places (`where`) of E examples, each followed by a zero byte.
      examples: int32, the indices of the examples of which a row holds a part, row after row.
      ends: [R] int64, for each row the end of its part of `examples`.
    """

    places: np.ndarray
    examples: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, packed: Packed) -> Origins:
        """The origins of packed rows."""
        text = "".join(f"{example['where']}\0" for example in packed.examples)
        return cls(
            np.frombuffer(text.encode(errors="surrogateescape"), np.uint8),
            np.fromiter(itertools.chain.from_iterable(packed.origins), np.int32),
            np.cumsum([len(row) for row in packed.origins], dtype=np.int64),
        )

    @classmethod
    def join(cls, parts: Sequence[Origins]) -> Origins:
        """The origins of the rows of several sources, one source after the other."""
        counts = [np.count_nonzero(part.places == 0) for part in parts]
        firsts = np.cumsum([0, *counts[:-1]])
        starts = np.cumsum([0, *(len(part.examples) for part in parts[:-1])])
        return cls(
            np.concatenate([part.places for part in parts]),
            np.concatenate([p.examples + np.int32(n) for p, n in zip(parts, firsts, strict=True)]),
            np.concatenate([part.ends + n for part, n in zip(parts, starts, strict=True)]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def example_counts(self) -> np.ndarray:
        """[R] the number of examples that begin in each row."""
        _, first = np.unique(self.examples, return_index=True)
        rows = np.searchsorted(self.ends, first, side="right")
        return np.bincount(rows, minlength=len(self.ends))

    def locations(self, row: int) -> list[str]:
        """The places at which the examples in a row were read."""
        ends = np.flatnonzero(self.places == 0)
        starts = np.concatenate([[0], ends[:-1] + 1])
        first = self.ends[row - 1] if row else 0
        return [
            self.places[starts[i] : ends[i]].tobytes().decode(errors="surrogateescape")
            for i in self.examples[first : self.ends[row]]
        ]
