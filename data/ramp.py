"""Ramps: the number of rows a step and their length, as functions of the step.

A run reads the same rows in the same order whatever its ramps: a step reads the next few of them,
and while rows are short each is cut into several. So a row is read once an epoch wherever a ramp
changes, and the rows of a batch remain a function of (seed, step).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import ranges
from data.errors import DataError


class Level(NamedTuple):
    """The steps between two changes of a ramp.

    Attributes:
      start: its first step. first_row: the number of rows that the steps before it read.
      rows: rows of the data that a step reads. pieces: rows of the batch that each is cut into.
    """

    start: int
    first_row: int
    rows: int
    pieces: int


class Ramp:
    """The levels of a run.

    Args:
      batch_size: rows a step in the end. length: tokens in a row of the data.
      batch_ramp: {step: rows a step until then}. length_ramp: {step: tokens in a row until then}.
    """

    def __init__(
        self, batch_size: int, length: int = 1, batch_ramp: Mapping[Any, int] | None = None,
        length_ramp: Mapping[Any, int] | None = None,
    ):  # fmt: skip
        batches, lengths = _by_step(batch_ramp), _by_step(length_ramp)
        levels, row = list[Level](), 0
        for start in sorted({0, *batches, *lengths}):
            if levels:
                row += (start - levels[-1].start) * levels[-1].rows
            pieces = length // _until(lengths, start, length)
            levels.append(Level(start, row, _until(batches, start, batch_size), pieces))
        self.levels = tuple(levels)
        self._starts = [level.start for level in levels]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Ramp:
        """The ramp of the settings `data` of a run, as saved by any version."""
        names = ("batch_size", "length", "batch_ramp", "length_ramp")
        return cls(**{name: data[name] for name in names if name in data})

    def level(self, step: int) -> Level:
        """The level of a step."""
        return self.levels[bisect.bisect_right(self._starts, step) - 1]

    def rows_before(self, step: int) -> int:
        """The number of rows that the steps before `step` read."""
        level = self.level(step)
        return level.first_row + (step - level.start) * level.rows

    def steps_within(self, rows: int) -> int:
        """The number of steps for which `rows` rows are enough."""
        level = max(level for level in self.levels if level.first_row <= rows)
        return level.start + (rows - level.first_row) // level.rows

    def split(self, steps: range) -> Iterator[tuple[Level, range]]:
        """The levels of consecutive steps, with the steps of each."""
        for level, end in zip(self.levels, [*self._starts[1:], steps.stop]):
            part = range(max(level.start, steps.start), min(end, steps.stop))
            if part:
                yield level, part

    def batch_ramp(self, step: int) -> dict[int, int]:
        """The setting `data.batch_ramp` with which the steps before `step` read the same rows."""
        ends = [*self._starts[1:], step]
        read = ((level, end) for level, end in zip(self.levels, ends) if level.start < step)
        return {min(end, step): level.rows for level, end in read}


def _by_step(ramp: Mapping[Any, int] | None) -> dict[int, int]:
    return {int(step): value for step, value in (ramp or {}).items()}


def _until(ramp: Mapping[int, int], step: int, last: int) -> int:
    """The value of a ramp at a step."""
    return ramp[min(ends)] if (ends := [end for end in ramp if end > step]) else last


def check(name: str, ramp: Mapping[str, int], last: int) -> None:
    """Checks the setting `data.NAME`, whose values end at `last`.

    Raises:
      ConfigError: a key is no step. DataError: a value is larger than the last.
    """
    ranges.check_steps(f"data.{name}", ramp)
    for step, value in ramp.items():
        if value > last:
            final = "batch_size" if name == "batch_ramp" else "length"
            raise DataError(
                f"data.{name}.{step}={value} is more than data.{final}={last}, which a run ends "
                "with; lower it"
            )


def nested_lengths(length: int, length_ramp: Mapping[str, int]) -> tuple[int, ...]:
    """The lengths of rows, ascending, of which each divides the next.

    Raises:
      DataError: one does not.
    """
    lengths = sorted({length, *length_ramp.values()})
    for short, long in itertools.pairwise(lengths):
        if long % short:
            raise DataError(
                f"data.length_ramp: rows of {long} tokens cannot be cut into rows of {short}; each "
                f"length has to divide the next, up to data.length={length}"
            )
    return tuple(lengths)


def cut(batch: Mapping[str, np.ndarray], pieces: int, whole: bool = False) -> dict[str, np.ndarray]:
    """Rows [n, T] of text or of conversations (data/batch.py) -> [n · pieces, T / pieces].

    A segment that continues in the next piece begins there again, so that its first token there is
    not predicted.

    Args:
      whole: whether the rest of such a segment is not learned either, as that of a conversation,
        which would be learned without its beginning.
    """
    if pieces == 1:
        return dict(batch)
    rows, length = batch["tokens"].shape
    out = {name: x.reshape(rows * pieces, length // pieces) for name, x in batch.items()}
    segments, positions = out["segment_ids"], out["positions"]
    real = segments > 0
    continues = real & (segments == segments[:, :1]) & (positions[:, :1] > 0)
    first = np.min(segments, axis=1, keepdims=True, where=real, initial=np.iinfo(np.int32).max)
    learned = ~continues if whole else np.arange(length // pieces) > 0
    return out | {
        "positions": np.where(continues, positions - positions[:, :1], positions),
        "segment_ids": np.where(real, segments - first + 1, 0).astype(np.int32),
        "loss_mask": np.where(learned, out["loss_mask"], np.float32(0)),
    }
