"""Mixtures: several sources as one sequence of rows, each a function of its number alone.

Among the first j rows every source has its share, up to a few rows (no more than there are
sources), and the count is computed from j, so a run may stop at any step and resume with another
number of hosts.

A sequence consists of phases with constant shares: a new one begins where a weight changes, and
where a source reaches its number of epochs.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, NamedTuple

import numpy as np

import ranges
from data.errors import DataError
from data.shuffle import permute
from ranges import CountOr0, NonNegative, Range
from suggestions import did_you_mean, nearest

# Shares are computed as fractions with denominators of up to 10^6.
Weight = Annotated[float, Range(1e-6, 1e6, also=0)]


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture.

    Attributes:
      source: as `data.source`. fields, records, transforms: as those of `data`, the default if
        empty.
      weight: its share of the rows, relative to the other sources' weights.
      changes: {step: weight from that step on}.
      epochs: the largest number of passes over its rows, which need not be whole; then the other
        sources continue without it. 0 is no limit.
      limit: the number of its examples to use, before filters; 0 uses all.
      passages: whether its prompts get the passages of `data.passages`.
    """

    source: str | tuple[str, ...]
    weight: Weight = 1.0
    changes: Mapping[str, Weight] = dataclasses.field(default_factory=dict)
    epochs: NonNegative = 0.0
    limit: CountOr0 = 0
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    records: str = ""
    transforms: Mapping[str, object] = dataclasses.field(default_factory=dict)
    passages: bool = True

    def __post_init__(self):
        ranges.check(self)


def source_config(name: str, settings: Mapping) -> SourceConfig:
    """The settings `data.mixture.NAME` of a recipe, checked.

    Raises:
      DataError: a setting is unknown or out of range, or `source` is missing.
    """
    prefix, known = f"data.mixture.{name}", [f.name for f in dataclasses.fields(SourceConfig)]
    for key in settings:
        if key not in known:
            hint = did_you_mean(nearest(key, known)) or f"; known: {', '.join(known)}"
            raise DataError(f"unknown config key {prefix}.{key}{hint}")
    if not settings.get("source"):
        raise DataError(f"{prefix}.source is missing; a path, a glob, or hf:OWNER/NAME:SPLIT")
    ranges.check_fields(SourceConfig, settings, f"{prefix}.")
    if not isinstance(given := settings.get("passages", True), bool):
        raise DataError(f"{prefix}.passages={given!r:.80}; it must be True or False")
    config = SourceConfig(**settings)
    for step in config.changes:
        if not str(step).isdecimal():
            raise DataError(f"{prefix}.changes: {step!r:.80} is no step; write {{1000: 0.5}}")
    return config


class _Phase(NamedTuple):
    """A phase from row `start` on, with shares proportional to `parts`. `counts`: how many rows of
    each source come before it."""

    start: int
    counts: tuple[int, ...]
    parts: tuple[int, ...]


def split(rows: int, parts: Sequence[int]) -> list[int]:
    """The number of rows of each source among the first `rows`, with shares proportional to
    `parts`.

    The first source has the floor of its share, the next the floor of its share of the rest, and
    so on. Each count grows by at most one a row, and they add up to `rows`.
    """
    counts, left = [], sum(parts)
    for part in parts:
        count = rows * part // left if left else 0
        counts.append(count)
        rows, left = rows - count, left - part
    return counts


def _rows_until(parts: Sequence[int], source: int, count: int) -> int:
    """The smallest number of rows that includes `count` rows of a source."""
    bound = (count + len(parts)) * sum(parts) // parts[source] + 1
    return bisect.bisect_left(range(bound), count, key=lambda rows: split(rows, parts)[source])


class Mixture:
    """The source of each row of a run, and the row within that source.

    Args:
      names: of the sources. sizes: the number of rows of each. configs: one for each source.
      rows_before: step -> rows of the steps before; converts the steps of `changes` to rows.
      seed: the rows of source i are shuffled, each epoch differently, with seed `seed` + i.

    Attributes:
      rows: the number of rows until every source is used up; None if that never happens.

    Raises:
      DataError: all weights are 0 in some phase.
    """

    def __init__(
        self, names: Iterable[str], sizes: Sequence[int], configs: Sequence[SourceConfig],
        rows_before: Callable[[int], int], seed: int,
    ):  # fmt: skip
        self.names = tuple(names)
        self.rows: int | None = None
        self._offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self._sizes, self._seed = tuple(sizes), seed
        most = [int(c.epochs * n) if c.epochs else None for c, n in zip(configs, sizes)]
        steps = sorted({0, *(int(step) for c in configs for step in c.changes)})
        self._phases = [_Phase(0, (0,) * len(sizes), ())]
        for step, end in zip(steps, [*steps[1:], None]):
            weights = [_weight(c, step) for c in configs]
            if not any(weights):
                raise DataError(f"data.mixture: every source has a weight of 0 from step {step} on")
            # Integers in proportion to the weights: 0.7 is 7 tenths, not the nearest float.
            exact = [Fraction(w).limit_denominator(10**6) for w in weights]
            common = math.lcm(*(f.denominator for f in exact))
            parts = [int(f * common) for f in exact]
            if not self._extend(parts, most, None if end is None else rows_before(end)):
                break
        self._starts = [phase.start for phase in self._phases]

    def _extend(self, parts, most, end: int | None) -> bool:
        """Sets the shares of the last phase, up to row `end`, and appends the next phase; more of
        them where a source is used up. Returns False if all sources are."""
        while True:
            start, counts, _ = self._phases[-1]
            parts = [0 if c == m else p for p, c, m in zip(parts, counts, most)]
            self._phases[-1] = _Phase(start, counts, tuple(parts))
            if not any(parts):
                self.rows = start
                return False
            length = None if end is None else end - start
            for i, part in enumerate(parts):
                if part and most[i] is not None:
                    used = _rows_until(parts, i, most[i] - counts[i])
                    length = used if length is None else min(length, used)
            if length is None:
                return True
            new = tuple(c + n for c, n in zip(counts, split(length, parts)))
            self._phases.append(_Phase(start + length, new, ()))
            if end is not None and start + length == end:
                return True

    def counts(self, row: int) -> list[int]:
        """The number of rows of each source among the first `row`."""
        phase = self._phases[bisect.bisect_right(self._starts, row) - 1]
        return [c + n for c, n in zip(phase.counts, split(row - phase.start, phase.parts))]

    def locate(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """(source, number of its earlier rows) of each of `rows`.

        Raises:
          DataError: a row is past the end.
        """
        places, last, after = [], None, ()
        for row in rows:
            if self.rows is not None and row >= self.rows:
                raise DataError(
                    f"data.mixture is used up after {self.rows} rows; raise an `epochs`"
                )
            before = after if last == row - 1 else self.counts(row)
            last, after = row, self.counts(row + 1)
            source = next(i for i, (a, b) in enumerate(zip(before, after)) if b > a)
            places.append((source, before[source]))
        return places

    def index(self, rows: np.ndarray) -> np.ndarray:
        """The positions [n] of `rows` [n] in the concatenation of all sources' rows."""
        places = np.array(self.locate(np.asarray(rows).tolist()), np.int64).reshape(-1, 2)
        out = np.empty(len(places), np.int64)
        for source in np.unique(places[:, 0]).tolist():
            of_source = places[:, 0] == source
            order = permute(places[of_source, 1], self._sizes[source], self._seed + source)
            out[of_source] = self._offsets[source] + order
        return out

    def between(self, start: int, stop: int) -> np.ndarray:
        """The positions of the rows `start` to `stop` - 1, as of `index`, source by source."""
        parts = zip(self._offsets, self._sizes, self.counts(start), self.counts(stop), strict=True)
        return np.concatenate(
            [
                offset + permute(np.arange(a, b), size, self._seed + source)
                for source, (offset, size, a, b) in enumerate(parts)
                if b > a
            ]
        )

    def names_of(self, rows: Sequence[int]) -> list[str]:
        """The name of the source of each of `rows`."""
        return [self.names[source] for source, _ in self.locate(rows)]

    def shares(self, rows: int) -> dict[str, float]:
        """{name: share of the source among the first `rows` rows}."""
        return {name: n / max(rows, 1) for name, n in zip(self.names, self.counts(rows))}

    def epochs(self, rows: int) -> dict[str, float]:
        """{name: passes over the source among the first `rows` rows}."""
        counts = zip(self.names, self.counts(rows), self._sizes)
        return {name: count / max(size, 1) for name, count, size in counts}


def _weight(config: SourceConfig, step: int) -> float:
    """The weight of a source at a step."""
    before = [int(s) for s in config.changes if int(s) <= step]
    return {int(s): w for s, w in config.changes.items()}[max(before)] if before else config.weight
