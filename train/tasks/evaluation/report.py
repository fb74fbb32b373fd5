"""The report of an evaluation: results.json, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from train.report import provenance
from train.tasks import metrics
from train.tasks.base import Suite
from train.tasks.evaluation import curves, pairs, results, samples, table, tickets
from train.tasks.evaluation.benchmark import Benchmark, Result
from train.tasks.evaluation.model import Evaluated
from train.tasks.metrics import SuiteMean
from train.terminal.console import console, print_error

FEW_BY_CHANCE = 5  # comparisons from which on some differ by chance alone


def suite_mean(suite: Suite, done: Sequence[Result]) -> SuiteMean:
    """The mean of a suite's parts that have a result."""
    by_label = {(result.task.name, result.shots): result for result in done}
    values = {
        name: by_label[part.task, part.shots].metrics[part.metric]
        for name, part in suite.parts.items()
        if (part.task, part.shots) in by_label
    }
    return metrics.suite_mean(suite, values)


def write(
    out: epath.Path, settings: Mapping[str, Any], suites: Sequence[Suite],
    benchmarks: Sequence[Benchmark], first: Evaluated, second: Evaluated | None,
    unread: Mapping[str, str],
) -> bool:  # fmt: skip
    """Writes results.json and the curves, and prints the results; returns whether every benchmark
    has one.

    Args:
      settings: of the command. second: the model that is compared. unread: {task: the reason why
        it could not be asked}.
    """
    compared = pairs.compare(first.results, second.results) if second else []
    means = {suite.name: suite_mean(suite, first.results) for suite in suites}
    failed = {**unread, **first.failed}
    record: dict[str, Any] = {
        "settings": dict(settings),
        "made": provenance.current(),
        "model": first.model._asdict(),
        "results": first.entries,
        "suites": {
            name: {**results.estimate(mean.estimate), "parts": mean.centred}
            for name, mean in means.items()
        },
        "failed": failed,
    }
    if second:
        record["against"] = {
            "model": second.model._asdict(),
            "results": second.entries,
            "failed": second.failed,
            "comparisons": [{**row._asdict(), "paired": row.paired._asdict()} for row in compared],
        }
    path = out / "results.json"
    results.write(path, record)
    drawn = curves.write(first.results, out)
    _show(benchmarks, first, means, second, compared)
    console.print(f"Results:  {path}")
    for curve in drawn:
        console.print(f"Curve:    {curve}")
    if second:
        failed = failed | {
            f"{label} of {second.model.name}": why for label, why in second.failed.items()
        }
    for label, reason in failed.items():
        print_error(f"error: {label}: {reason}")
    return not failed


def _show(
    benchmarks: Sequence[Benchmark], first: Evaluated, suites: Mapping[str, SuiteMean],
    second: Evaluated | None, compared: Sequence[pairs.Comparison],
) -> None:  # fmt: skip
    """Prints the results of the first model, a few of its answers, and the comparison."""
    by_label = {benchmark.label: benchmark for benchmark in benchmarks}
    if first.results:
        console.print()
        means = {name: mean.estimate for name, mean in suites.items()}
        console.print(table.results(first.results, means))
        for name, mean in suites.items():
            if mean.missing:
                parts = len(mean.centred) + len(mean.missing)
                console.print(
                    f"{name} is the mean of {len(mean.centred)} of its {parts} tasks; without a "
                    f"result: {', '.join(mean.missing)}"
                )
        console.print()
    for result in first.results:
        if result.task.labels:
            console.print(tickets.show(result))
    by_task = {result.task.name: result for result in first.results}  # the last number of shots
    for result in by_task.values():
        benchmark = by_label[result.label]
        for line in table.samples(result.label, samples.right_and_wrong(benchmark, result, 1)):
            console.print(line)
    if second and compared:
        console.print(f"\n{first.model.name} against {second.model.name}")
        for line in table.comparisons(compared):
            console.print(line)
        if len(compared) >= FEW_BY_CHANCE:
            console.print(
                f"Of {len(compared)} comparisons of equal models, about "
                f"{pairs.LEVEL * len(compared):.2g} would be called different by chance."
            )
    console.print()
