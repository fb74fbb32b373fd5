"""Curves over the number of examples, as SVG files."""

from __future__ import annotations

from collections.abc import Iterable

from etils import epath

from data.atomic import write_atomically
from train.report import charts
from train.tasks.evaluation.benchmark import Result


def write(results: Iterable[Result], out: epath.Path) -> list[epath.Path]:
    """Writes shots-TASK.svg with the headline of each task that has several numbers of shots;
    returns the files."""
    tasks = dict[str, list[Result]]()
    for result in results:
        tasks.setdefault(result.task.name, []).append(result)
    paths = []
    for name, rows in tasks.items():
        if len(rows) < 2:
            continue
        metric = next(iter(rows[0].metrics))
        points = sorted((float(row.shots), row.metrics[metric].value) for row in rows)
        path = out / f"shots-{rows[0].task.name}.svg"
        write_atomically(path, charts.file(f"{name} by examples", metric, points, "examples"))
        paths.append(path)
    return paths
