"""Rows of a split (data/batch.py), in memory or on disk, behind three functions.

Rows in memory are a dict of arrays with a leading dimension; other rows (PreparedRows, JoinedRows)
are `StoredRows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np


class StoredRows(Protocol):
    """Rows that are read by number, such as those of a folder of prepared rows.

    Attributes:
      row_bytes: the size of a row in memory, in bytes.
    """

    row_bytes: int

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of numbers `index` [n], as arrays with a leading dimension n."""


Rows: TypeAlias = dict[str, np.ndarray] | StoredRows


def num_rows(rows: Rows) -> int:
    """The number of rows."""
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def row_bytes(rows: Rows) -> int:
    """The size of one row in memory, in bytes."""
    return rows.row_bytes if not isinstance(rows, dict) else sum(v[0].nbytes for v in rows.values())


def take_rows(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of numbers `index` [n], as arrays with a leading dimension n."""
    if isinstance(rows, dict):
        return {name: values[index] for name, values in rows.items()}
    return rows.take(index)


def concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows in memory, one part after the other; rankings are padded to the same number of
    candidates."""
    out = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if len({x.shape[1:] for x in columns}) > 1:
            most = max(x.shape[1] for x in columns)
            fill = -1 if name == "rank" else 0
            columns = [
                np.pad(x, ((0, 0), (0, most - x.shape[1])), constant_values=fill) for x in columns
            ]
        out[name] = columns[0] if len(columns) == 1 else np.concatenate(columns)
    return out


class JoinedRows:
    """The rows of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = parts
        self._ends = np.cumsum([num_rows(part) for part in parts])
        self.row_bytes = max(map(row_bytes, parts))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of numbers `index` [n], as arrays with a leading dimension n."""
        index = np.asarray(index)
        out: dict[str, np.ndarray] = {}
        for part, at, numbers in self._by_part(index):
            for name, values in take_rows(self.parts[part], numbers).items():
                if name not in out:
                    out[name] = np.empty((len(index), *values.shape[1:]), values.dtype)
                out[name][at] = values
        return out

    def _by_part(self, index) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (part, positions in `index` of its rows, their numbers within the part)."""
        part_of = np.searchsorted(self._ends, index, side="right")
        for part in np.unique(part_of).tolist():
            at = np.flatnonzero(part_of == part)
            yield part, at, index[at] - (self._ends[part - 1] if part else 0)


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of several sources, one source after the other."""
    in_memory = [part for part in parts if isinstance(part, dict)]
    if len(in_memory) == len(parts):
        return concatenate(in_memory)
    return parts[0] if len(parts) == 1 else JoinedRows(parts)
