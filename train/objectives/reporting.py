"""What an objective says in the report of a chain: its numbers, their meaning in words, its curves.

train/report/ collects and draws; this file has the types, and imports nothing that trains.
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
      train, evals: the records of metrics.jsonl.
    """

    name: str
    role: str
    config: Any
    workdir: epath.Path
    train: list[dict]
    evals: list[dict]
    seconds: float

    def _measured(self, first: bool = False) -> dict[str, float]:
        """The numbers of the last evaluation, or of one before the first step; NaN where one was
        not finite."""
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


def null_as_nan(value):
    """A value of metrics.jsonl or report.json, in which null is NaN or infinite."""
    if isinstance(value, dict):
        return {name: null_as_nan(x) for name, x in value.items()}
    return math.nan if value is None else value


class Result(NamedTuple):
    """One number of a run, another to compare it with, and its meaning in plain words."""

    stage: str
    headline: str
    beside: str
    meaning: str


class Curve(NamedTuple):
    """A chart: a metric of training records as a line, and one of evaluations as dots.

    Attributes:
      train, heldout: names of the metrics. percent: they are shares.
      shift: added to the step of training records.
      across: what the x axis shows instead of the step: (its label, the metric of training
        records, the metric of evaluations).
    """

    title: str
    train: str
    heldout: str
    percent: bool = False
    shift: int = 0
    across: tuple[str, str, str] | None = None


class Bars(NamedTuple):
    """A section of accuracies as bars: {who: {kind: accuracy}}."""

    title: str
    text: str
    accuracies: Mapping[str, Mapping[str, float]]


class Report(NamedTuple):
    """What the report says of runs of an objective.

    Attributes:
      numbers: a finished run -> its values in report.json; those that are None are left out.
      result: (these values, the whole of report.json) -> the values in words, or None where too
        little was measured.
      curves: what is drawn.
      bars: (values, the whole of report.json) -> a section of accuracies, or None.
    """

    numbers: Callable[[Finished], dict]
    result: Callable[[Mapping, Mapping], Result | None]
    curves: tuple[Curve, ...]
    bars: Callable[[Mapping, Mapping], Bars | None] = lambda values, report: None
