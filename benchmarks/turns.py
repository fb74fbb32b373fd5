"""Sides of a race measured turn about in one run: other work on the machine disturbs all alike.

    figures = turns.race({"ours": ours, "PyTorch": theirs}, rounds=5)
    turns.ratio(figures, "ours", "PyTorch")      # the median of the ratios within a round
    turns.spread(figures["ours"])                # "3,471 (2,975 to 5,104)": median, least, largest

A side is a function of the round's number; it does its work once and returns its figure (tokens a
second, seconds of processor time, …) or anything else. The order of the sides is reversed at every
round. `clock` times a piece of work in a side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def order(sides: Mapping[str, T], number: int) -> list[str]:
    """The names of the sides as they run in a round: reversed in every second one."""
    return list(sides)[:: -1 if number % 2 else 1]


def race(sides: Mapping[str, Callable[[int], T]], rounds: int, warm: int = 1) -> dict[str, list[T]]:
    """Runs every side once a round.

    Args:
      rounds: those that count. warm: rounds before them, which compile.

    Returns:
      {side: what it returned in each round that counts}.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name in order(sides, number):
            result = sides[name](number)
            if number >= warm:
                results[name].append(result)
    return results


@dataclasses.dataclass
class Took:
    """The cost of a piece of work: `seconds` by the clock, and `processor` seconds of all threads
    of this process, which other work on the machine disturbs less."""

    seconds: float = 0.0
    processor: float = 0.0


@contextlib.contextmanager
def clock() -> Iterator[Took]:
    """Times the body of a `with` statement; the result is complete after it."""
    took, start, processor = Took(), time.perf_counter(), time.process_time()
    try:
        yield took
    finally:
        took.seconds = time.perf_counter() - start
        took.processor = time.process_time() - processor


def ratios(figures: Mapping[str, Sequence[float]], name: str, beside: str) -> list[float]:
    """The figures of a side as multiples of another's, round by round."""
    return [a / b for a, b in zip(figures[name], figures[beside], strict=True)]


def ratio(figures: Mapping[str, Sequence[float]], name: str, beside: str) -> float:
    """The median of `ratios`."""
    return statistics.median(ratios(figures, name, beside))


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median of values, and in parentheses the least and the largest if there are several."""
    median, least, most = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} ({least} to {most})" if len(values) > 1 else median
