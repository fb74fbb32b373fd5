"""The result of a sweep on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from printable import escaped
from train.runtime import strict_json
from train.sweep import results
from train.sweep.comparison import BEST, WORSE, Compared, half_width
from train.sweep.metric import Metric
from train.sweep.results import Result
from train.tasks.evaluation.table import number
from train.tasks.metrics import Paired
from train.terminal.console import console

NARROW, WIDE = 80, 110  # columns below which less is shown, and from which all
STYLES = {BEST: "green", WORSE: "yellow"}


def with_spread(values: Sequence[float]) -> str:
    """`4.532 ± 0.021`: mean and standard deviation; – without values."""
    mean, deviation = results.spread(values)
    if math.isnan(mean):
        return "–"
    if math.isnan(deviation):
        return f"{mean:.4f}"
    return f"{number(mean, deviation)} ± {number(deviation, deviation)}"


def difference(test: Paired | None) -> str:
    """`+0.71 ± 0.03`: a paired difference and half of its interval."""
    if test is None:
        return ""
    half = half_width(test)
    size = number(test.difference, half)
    text = size.replace("-", "−") if test.difference < 0 else f"+{size}"
    return text if math.isnan(half) else f"{text} ± {number(half, half)}"


def table(rows: Sequence[Compared], metric: Metric) -> Table:
    """The trials, a row each; a narrow terminal shows less."""
    medium, wide = (console.width >= width for width in (NARROW, WIDE))
    out = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    out.add_column("trial", overflow="fold")
    if wide:
        out.add_column("seeds", justify="right")
    out.add_column(f"{metric.title} ± sd", justify="right", no_wrap=True)
    if wide:
        out.add_column("best ± sd", justify="right", no_wrap=True)
    out.add_column("to the best" + " ± 95%" * medium, justify="right", no_wrap=True)
    if medium:
        out.add_column("")
    for row in rows:
        result, style = row.result, STYLES.get(row.verdict, "")
        finals, bests = list(result.finals.values()), list(result.bests.values())
        text = difference(row.paired)
        end = row.verdict if result.is_whole else result.note
        out.add_row(
            Text(escaped(result.name), style),
            *[f"{len(finals)}/{len(result.runs)}"] * wide,
            with_spread(finals), *[with_spread(bests)] * wide,
            text if medium else text or end, *[Text(end, style)] * medium,
        )  # fmt: skip
    return out


def markdown(rows: Sequence[Compared], metric: Metric, verdict: Sequence[str]) -> str:
    """The content of table.md."""
    unit = f", {metric.unit}" if metric.unit else ""
    better = "lower" if metric.lower else "higher"
    heads = ["trial", "seeds", "final ± sd", "best ± sd", "to the best ± 95%", ""]
    lines = ["# Sweep", "", *(f"- {line}" for line in verdict), ""]
    lines += [f"{metric.title}{unit}; {better} is better.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---|---|---|---|---|---|"]
    for row in rows:
        result = row.result
        cells = [
            f"`{result.name}`", f"{len(result.finals)}/{len(result.runs)}",
            with_spread(list(result.finals.values())), with_spread(list(result.bests.values())),
            difference(row.paired), row.verdict if result.is_whole else result.note,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if reasons := failures([row.result for row in rows]):
        lines += ["", *(f"- {name}: {reason}" for name, reason in reasons.items())]
    return "\n".join(lines) + "\n"


def failures(rows: Sequence[Result]) -> dict[str, str]:
    """{run: why it has no value} of the runs that failed or diverged."""
    return {
        f"{result.name} seed {seed}": f"{run.status}: {run.reason}" if run.reason else run.status
        for result in rows
        for seed, run in result.runs.items()
        if run.status in results.BROKEN
    }


def as_json(
    rows: Sequence[Compared], metric: Metric, verdict: Sequence[str], base: Mapping[str, Any]
) -> str:
    """The content of sweep.json."""
    trials = [
        {
            "name": row.result.name,
            "settings": dict(row.result.settings),
            "verdict": row.verdict,
            "to_the_best": row.paired and row.paired._asdict(),
            "seeds": {
                str(seed): {
                    "status": run.status,
                    "reason": run.reason,
                    "final": run.final,
                    "best": run.best and {"step": run.best[0], "value": run.best[1]},
                    "curve": [list(point) for point in run.curve],
                }
                for seed, run in row.result.runs.items()
            },
        }
        for row in rows
    ]
    content = {
        "metric": metric.title,
        "mode": "min" if metric.lower else "max",
        "unit": metric.unit,
        "verdict": list(verdict),
        "trials": trials,
        "base": dict(base),
    }
    return strict_json.dumps(content, indent=2) + "\n"
