"""Comparison of trials: paired differences over seeds, and the verdict in words.

Two trials with the same seed start from the same weights and read the same rows in the same order,
so that the differences of the pairs are due to the settings and to chance in how they act.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from train.sweep.metric import Metric
from train.sweep.results import Result
from train.sweep.trials import short, value_text
from train.tasks.evaluation.table import number
from train.tasks.metrics import Paired, paired

BEST, WORSE, SAME, ONE_SEED, NOTHING = (
    "best", "worse", "not beyond chance", "one seed", "nothing to compare"
)  # fmt: skip
ROUNDING = 1e-9  # of a difference
EXPLANATION = (
    "A difference is that of runs with the same seed, which start from the same weights and read "
    "the same rows; ± is its 95% interval by Student's t over the seeds. Each interval is of one "
    "comparison alone: among many trials the best owes something to chance."
)


class Compared(NamedTuple):
    """A trial beside the best one.

    Attributes:
      paired: of its final values minus the best trial's; None for the best itself, and where they
        share no seed. verdict: one of BEST, WORSE, SAME, ONE_SEED, NOTHING.
    """

    result: Result
    paired: Paired | None
    verdict: str


def half_width(test: Paired) -> float:
    """Half of the interval of a difference."""
    return (test.high - test.low) / 2


def difference(result: Result, other: Result) -> Paired | None:
    """`result` minus `other` over the seeds that both have; None if they share none."""
    ours: dict[Any, float] = {**result.finals}
    theirs: dict[Any, float] = {**other.finals}
    test = paired(ours, theirs)
    if not test.items:
        return None
    if test.items == 1:  # whatever the values are
        return test._replace(low=math.nan, high=math.nan, p=math.nan)
    if half_width(test) < ROUNDING * abs(test.difference):  # the pairs differ by rounding alone
        return test._replace(low=test.difference, high=test.difference)
    return test


def compare(results: Sequence[Result]) -> list[Compared]:
    """Each trial beside the best.

    Args:
      results: the best first.
    """
    if not results:
        return []
    best, *others = results
    rows = [Compared(best, None, BEST if best.is_whole else NOTHING)]
    for result in others:
        test = difference(result, best) if result.is_whole else None
        rows.append(Compared(result, test, _verdict(test)))
    return rows


def _verdict(test: Paired | None) -> str:
    if test is None:
        return NOTHING
    if test.items < 2:
        return ONE_SEED
    return WORSE if is_beyond_chance(test) else SAME


def is_beyond_chance(test: Paired) -> bool:
    """Whether the interval of a difference excludes 0."""
    return test.low > 0 or test.high < 0


def label(result: Result) -> str:
    """A trial in a sentence: `muon at peak_lr 0.01`."""
    words, numbers = list[str](), list[str]()
    for key, value in result.settings.items():
        if isinstance(value, str):
            words.append(value)
        else:
            numbers.append(f"{short(key)} {value_text(value)}")
    return " at ".join(filter(None, (" ".join(words), ", ".join(numbers)))) or result.name


def sentence(better: Result, other: Result, metric: Metric) -> str:
    """The comparison of two trials in words; `better` has the better mean."""
    test = difference(other, better)
    unit = f" {metric.unit}" if metric.unit else ""
    if test is None:
        return f"{label(better)} and {label(other)} share no seed, so they cannot be compared"
    if metric.worth(test.difference) < 0:  # on the seeds that they share
        better, other = other, better
    if test.items < 2:
        size = number(abs(test.difference))
        return (
            f"{label(better)} ended {size}{unit} better than {label(other)} with one seed, which "
            "says nothing about chance: --seeds=3 would"
        )
    half = half_width(test)
    size = f"{number(abs(test.difference), half)} ± {number(half, half)}{unit}"
    seeds = f"95% interval over {test.items} seeds"
    if is_beyond_chance(test):
        return f"{label(better)} is better than {label(other)} by {size} ({seeds})"
    return (
        f"no difference beyond the seeds' spread between {label(better)} and {label(other)}: "
        f"{size} ({seeds})"
    )


def verdict(results: Sequence[Result], metric: Metric) -> list[str]:
    """The conclusions of a sweep: for each setting that is no number the best trial of its values,
    else the two best trials; and best values at an edge of the sweep.

    Args:
      results: the best first.
    """
    whole = [result for result in results if result.is_whole]
    broken = len(results) - len(whole)
    lines = []
    if not whole:
        return ["no trial has finished with every seed, so there is nothing to compare"]
    pairs = list(dict.fromkeys(_pairs(whole)))
    for first, second in pairs:
        lines.append(sentence(whole[first], whole[second], metric))
    if not pairs:
        lines.append(f"{label(whole[0])} is the only trial with every seed finished")
    lines += _edges(whole)
    if broken:
        are = "trials are" if broken > 1 else "trial is"
        lines.append(f"{broken} {are} left out, as not all runs finished")
    return lines


def _pairs(whole: Sequence[Result]) -> Iterator[tuple[int, int]]:
    """(rank, rank) of the trials to compare in words."""
    for key in _varied(whole):
        firsts = dict[str, int]()  # {value: the rank of its best trial}
        for rank, result in enumerate(whole):
            if not _is_number(result.settings.get(key)):
                firsts.setdefault(repr(result.settings.get(key)), rank)
        ranks = list(firsts.values())
        yield from ((ranks[0], rank) for rank in ranks[1:])
    if len(whole) > 1:
        yield 0, 1


def _varied(whole: Sequence[Result]) -> list[str]:
    """The settings that differ between trials."""
    keys = dict.fromkeys(key for result in whole for key in result.settings)
    return [key for key in keys if len({repr(result.settings.get(key)) for result in whole}) > 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _edges(whole: Sequence[Result]) -> Iterator[str]:
    """Notes on best values that are the smallest or the largest that were tried."""
    for key in _varied(whole):
        values = sorted({r.settings[key] for r in whole if _is_number(r.settings.get(key))})
        value = whole[0].settings.get(key)
        if len(values) > 1 and value in (values[0], values[-1]):
            end = "smallest" if value == values[0] else "largest"
            further = "smaller" if end == "smallest" else "larger"
            yield (
                f"the best {short(key)}, {value_text(value)}, is the {end} of the sweep: a "
                f"{further} one may be better"
            )
