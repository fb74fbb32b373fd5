"""Curves over the number of examples, as SVG files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from etils import epath

from data.atomic import write_atomically
from train.report.charts import HEIGHT, RADIUS, WIDTH, Axes, frame
from train.tasks.base import Estimate
from train.tasks.evaluation.benchmark import Result
from train.tasks.evaluation.results import file_name

HEAD = 22  # height of the title, in SVG units
_STYLE = (
    "text{fill:#5d6157;font:11px sans-serif}.title{fill:#22251f;font-weight:600}"
    ".grid{stroke:#dedcd2}.axis{stroke:#8f9287;fill:none}"
    ".line,.error{fill:none;stroke:#2a7449;stroke-width:1.8}.error{stroke-width:1}"
    ".dot{fill:#2a7449}"
)


def write(results: Iterable[Result], out: epath.Path) -> list[epath.Path]:
    """Writes shots-TASK.svg with the headline of each task that has several numbers of shots;
    returns the files."""
    tasks = dict[str, list[Result]]()
    for result in results:
        tasks.setdefault(result.task.name, []).append(result)
    paths = []
    for name, rows in tasks.items():
        metric = next(iter(rows[0].metrics))
        values = {row.shots: row.metrics[metric] for row in rows}
        values = {shots: value for shots, value in values.items() if math.isfinite(value.value)}
        if len(values) < 2:
            continue
        paths.append(path := out / f"shots-{file_name(name)}.svg")
        write_atomically(path, drawing(f"{name}, {rows[0].items:,} items", metric, values))
    return paths


def drawing(title: str, metric: str, values: dict[int, Estimate]) -> str:
    """An SVG file of a metric by the number of examples, with bars of one standard error."""
    ends = [(shots, value, _finite(stderr)) for shots, (value, stderr) in sorted(values.items())]
    axes = Axes([(shots, value + sign * err) for shots, value, err in ends for sign in (-1, 1)])
    parts = frame(axes, metric, "examples", [shots for shots, *_ in ends], "{:.4g}".format)
    points = " ".join(f"{axes.x(shots):.1f},{axes.y(value):.1f}" for shots, value, _ in ends)
    parts.append(f'<polyline class="line" points="{points}"/>')
    for shots, value, stderr in ends:
        x, y = axes.x(shots), axes.y(value)
        low, high = axes.y(value - stderr), axes.y(value + stderr)
        parts.append(
            f'<path class="error" d="M{x:.1f},{low:.1f} V{high:.1f} M{x - 3:.1f},{low:.1f} h6 '
            f'M{x - 3:.1f},{high:.1f} h6"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS - 1}">'
            f"<title>{shots} examples: {value:.4g} ± {stderr:.2g}</title></circle>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
        f'height="{2 * (HEIGHT + HEAD)}" viewBox="0 {-HEAD} {WIDTH} {HEIGHT + HEAD}">'
        f"<style>{_STYLE}</style>"
        f'<rect y="{-HEAD}" width="{WIDTH}" height="{HEIGHT + HEAD}" fill="#fff"/>'
        f'<text class="title" x="6" y="{8 - HEAD + 6}">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
