"""Measurements of the runs of a sweep, read from their workdirs: no times, so that a sweep that
was interrupted ends with the same bytes."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from etils import epath

from data.atomic import write_atomically
from data.read import json_files
from data.schemas.templates import is_number
from train.runtime import strict_json
from train.runtime.records import read_metrics
from train.sweep.metric import Metric
from train.sweep.trials import Plan

OUTCOME = "outcome.json"
FINISHED, PRUNED, DIVERGED, FAILED = "finished", "pruned", "diverged", "failed"
MISSING = "not finished"
# Outcomes with which a run is not run again by the same command; one that failed may succeed.
SETTLED = (FINISHED, PRUNED, DIVERGED)
BROKEN = (DIVERGED, FAILED)


class Outcome(TypedDict):
    """The content of outcome.json, the end of a run.

    Attributes:
      status: FINISHED, PRUNED, DIVERGED or FAILED. reason: of the latter two.
      programs: keys of the compiled steps that it used.
    """

    status: str
    reason: NotRequired[str]
    programs: NotRequired[list[str]]


def read_outcome(workdir: epath.Path) -> Outcome | None:
    """The end of a run; None before it.

    Raises:
      DataError: the file is damaged.
    """
    path = workdir / OUTCOME
    return json_files.read(path, Outcome) if path.exists() else None


def write_outcome(workdir: epath.Path, outcome: Outcome) -> None:
    """Notes the end of a run.

    Raises:
      OSError: it cannot be written.
    """
    write_atomically(workdir / OUTCOME, strict_json.dumps(dict(outcome)) + "\n")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run's numbers.

    Attributes:
      status: of its outcome, or MISSING. reason: why it has no value, if that is known.
      curve: (step, value) of the metric at each evaluation. train: of the training metric.
      final: at the last step; None unless the run has finished. best: (step, value); None without
        any.
    """

    status: str
    reason: str
    curve: Sequence[tuple[int, float]]
    train: Sequence[tuple[int, float]]
    final: float | None
    best: tuple[int, float] | None


def measure(workdir: epath.Path, metric: Metric) -> Measured:
    """The numbers of a run."""
    outcome = read_outcome(workdir)
    status, reason = MISSING, ""
    if outcome:
        status, reason = outcome["status"], outcome.get("reason", "")
    records = read_metrics(workdir, "eval")
    curve = _points(records, metric.name)
    train = _points(read_metrics(workdir, "train"), metric.train) if metric.train else []
    final = None
    if status == FINISHED:
        last = records[-1]["step"] if records else -1
        final = curve[-1][1] if curve and curve[-1][0] == last else None
        if final is None:
            status, reason = FAILED, f"{metric.title} at its end is missing or not finite"
    best = min(curve, key=lambda point: metric.worth(point[1]), default=None)
    return Measured(status, reason, curve, train, final, best)


def _points(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(r["step"], float(r[name])) for r in records if is_number(r.get(name))]


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial's numbers.

    Attributes:
      runs: {seed: its numbers}.
    """

    name: str
    settings: Mapping[str, Any]
    runs: Mapping[int, Measured]

    @property
    def finals(self) -> dict[int, float]:
        """{seed: final value} of the runs that have one."""
        return {seed: run.final for seed, run in self.runs.items() if run.final is not None}

    @property
    def bests(self) -> dict[int, float]:
        """{seed: best value} of the runs that finished."""
        return {
            seed: run.best[1] for seed, run in self.runs.items()
            if run.best and run.final is not None
        }  # fmt: skip

    @property
    def is_whole(self) -> bool:
        """Whether all of its runs have finished."""
        return len(self.finals) == len(self.runs)

    @property
    def note(self) -> str:
        """Why some runs have no value: `1 of 3 diverged`; "" if all do."""
        others = [run.status for run in self.runs.values() if run.final is None]
        return "; ".join(
            f"{others.count(status)} of {len(self.runs)} {status}"
            for status in dict.fromkeys(others)
        )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, sample standard deviation); NaN for fewer than one, or two values."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def read(workdir: epath.Path, plan: Plan, metric: Metric) -> list[Result]:
    """The trials of a plan, the best first; those with runs that did not finish come last."""
    results = [
        Result(
            name,
            entry["settings"],
            {seed: measure(workdir / name / f"seed{seed}", metric) for seed in entry["seeds"]},
        )
        for name, entry in plan["trials"].items()
    ]

    def rank(result: Result) -> tuple:
        mean, _ = spread(list(result.finals.values()))
        worth = math.inf if math.isnan(mean) else metric.worth(mean)
        return not result.is_whole, worth, result.name

    return sorted(results, key=rank)
