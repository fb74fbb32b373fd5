"""Two models compared item by item."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from train.tasks.evaluation.benchmark import Result
from train.tasks.metrics import Paired, paired

LEVEL = 0.05  # p-values below it are a difference


class Comparison(NamedTuple):
    """A metric of two models on the same items.

    Attributes:
      value, other: of the two models. item: the number of an item that is compared.
      paired: of that number. verdict: in words.
    """

    task: str
    shots: int
    metric: str
    value: float
    other: float
    item: str
    paired: Paired
    verdict: str


def compare(results: Sequence[Result], others: Iterable[Result]) -> list[Comparison]:
    """The metrics that items have a number of, of the benchmarks that both models have."""
    by_label = {(other.task.name, other.shots): other for other in others}
    rows = []
    for result in results:
        other = by_label.get((result.task.name, result.shots))
        if other is None:
            continue
        for name, metric in result.task.metrics.items():
            if not metric.item:
                continue
            test = paired(_values(result, metric.item), _values(other, metric.item))
            value, theirs = result.metrics[name].value, other.metrics[name].value
            # Of the items, whose test it is: a mean over tokens may differ the other way.
            is_better = (test.difference > 0) == metric.higher_is_better
            rows.append(
                Comparison(
                    result.task.name, result.shots, name, value, theirs, metric.item, test,
                    verdict(test, is_better),
                )
            )  # fmt: skip
    return rows


def _values(result: Result, item: str) -> dict[Hashable, float]:
    return {i: float(o[item]) for i, o in enumerate(result.outcomes) if item in o}


def verdict(test: Paired, is_better: bool) -> str:
    """`better`, `worse`, or why neither is said.

    Args:
      is_better: whether the first model's number is the better one.
    """
    if not test.items:
        return "no item in common"
    if math.isnan(test.p):
        return "too few items"
    if test.p >= LEVEL:
        return "no difference"
    return "better" if is_better else "worse"
