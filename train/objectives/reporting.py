"""The types of an objective's part of a chain's report: its numbers, their meaning in words, its
curves.

train/report/ collects the numbers and draws the page; this file imports nothing that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from data.schemas.templates import is_number


class Finished(NamedTuple):
    """A finished run of a chain.

    Attributes:
      role: its stage, or `judge`. config: its RunConfig.
      train, evals: the records of metrics.jsonl. seconds: its wall time.
    """

    name: str
    role: str
    config: Any
    workdir: epath.Path
    train: list[dict]
    evals: list[dict]
    seconds: float

    def _measured(self, first: bool = False) -> dict[str, float]:
        """{metric: value} of the last evaluation, or with `first` of the one before the first step;
        NaN in place of a value that was not finite."""
        if not self.evals or (first and self.evals[0]["step"]):
            return {}
        record = null_as_nan(self.evals[0 if first else -1])
        return {name: x for name, x in record.items() if is_number(x)}

    def metric(self, name: str, first: bool = False) -> float | None:
        """A held-out metric at the end, or before the first step; None if not measured."""
        return self._measured(first).get(name)

    def family(self, prefix: str) -> dict[str, float]:
        """The last held-out metrics named `prefix/…`, the overall one first."""
        values = {
            name.removeprefix(f"{prefix}/"): value
            for name, value in self._measured().items()
            if name.startswith(f"{prefix}/")
        }
        overall = {k: values.pop(k) for k in ("overall",) if k in values}
        return overall | dict(sorted(values.items()))


def null_as_nan(value: Any) -> Any:
    """A value read from metrics.jsonl or report.json, with NaN for null, which is written in place
    of NaN and infinities."""
    if isinstance(value, dict):
        return {name: null_as_nan(x) for name, x in value.items()}
    return math.nan if value is None else value


class Result(NamedTuple):
    """One number of a run, another to compare it with (`beside`), and its meaning in words."""

    stage: str
    headline: str
    beside: str
    meaning: str


class Curve(NamedTuple):
    """A chart: a metric of training records as a line, and one of evaluations as dots.

    Attributes:
      train, heldout: names of the metrics. percent: whether they are shares.
      shift: an offset added to the step of training records.
      across: the x axis, if it is not the step: (its label, the metric of training records, the
        metric of evaluations).
    """

    title: str
    train: str
    heldout: str
    percent: bool = False
    shift: int = 0
    across: tuple[str, str, str] | None = None


class Bars(NamedTuple):
    """A section of the report with accuracies as bars: {who: {kind: accuracy}}."""

    title: str
    text: str
    accuracies: Mapping[str, Mapping[str, float]]


class Report(NamedTuple):
    """The report of runs of an objective.

    Attributes:
      numbers: finished run -> its values in report.json; values that are None are omitted.
      result: (these values, all of report.json) -> the values in words, or None if too little was
        measured.
      curves: the charts to draw.
      bars: (these values, all of report.json) -> a section of accuracies, or None.
    """

    numbers: Callable[[Finished], dict]
    result: Callable[[Mapping, Mapping], Result | None]
    curves: tuple[Curve, ...]
    bars: Callable[[Mapping, Mapping], Bars | None] = lambda values, report: None
