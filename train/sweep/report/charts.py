"""Charts of a sweep as inline SVG: curves with the spread of their seeds, final values by a number
that varies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from train.report.charts import BOTTOM, HEIGHT, RADIUS, TOP, WIDTH, Axes, frame, thin, ticks
from train.sweep.metric import Metric
from train.sweep.results import Measured, Result
from train.sweep.trials import short

COLOURS = 8  # of the page's style; the trials after them are grey
Points = list[tuple[float, float]]


def colour(rank: int) -> str:
    """The class of a trial's colour."""
    return f"c{rank}" if rank < COLOURS else "other"


def legend(results: Sequence[Result]) -> str:
    """The names of the trials with their colours, the best first."""
    items = [
        f'<li><i class="{colour(rank)}"></i>{escape(result.name)}</li>'
        for rank, result in enumerate(results[:COLOURS])
    ]
    if more := len(results) - COLOURS:
        items += [f'<li><i class="other"></i>{more} more</li>'] if more > 0 else []
    return f'<ul class="legend">{"".join(items)}</ul>'


def band(runs: Iterable[Sequence[tuple[int, float]]]) -> list[tuple[int, float, float, float]]:
    """(step, lowest, mean, highest) over the curves of several seeds, at the steps of any."""
    by_step = dict[int, list[float]]()
    for curve in runs:
        for step, value in curve:
            by_step.setdefault(step, []).append(value)
    return [(s, min(v), sum(v) / len(v), max(v)) for s, v in sorted(by_step.items())]


def curves(
    results: Sequence[Result], title: str, unit: str, read: Callable[[Measured], Any], dots: bool
) -> str:
    """A figure with a curve of each trial, drawn over the range of its seeds; "" without data.

    Args:
      results: the best first. read: the curve of a run. dots: whether each point is marked.
    """
    bands = [band(read(run) for run in result.runs.values()) for result in results]
    every: Points = [(x, y) for b in bands for x, low, _, high in b for y in (low, high)]
    if len(every) < 2:
        return ""
    points = _visible(every)
    axes = Axes(points)
    parts = frame(axes, unit, "optimizer step", _whole(ticks(axes.left, axes.right)), _label)
    for rank in reversed(range(len(bands))):  # the best on top
        b, name = thin(bands[rank]), escape(results[rank].name)
        if not b:
            continue
        if len(results[rank].runs) > 1:
            edge = [(x, low) for x, low, _, _ in b] + [(x, high) for x, _, _, high in reversed(b)]
            parts.append(f'<polygon class="band {colour(rank)}" points="{_path(axes, edge)}"/>')
        mean: Points = [(x, middle) for x, _, middle, _ in b]
        parts.append(
            f'<polyline class="line {colour(rank)}" points="{_path(axes, mean)}">'
            f"<title>{name}</title></polyline>"
        )
        if dots:
            parts += [_dot(axes, x, y, rank, f"{name}, step {x}: {y:.4g}") for x, y in mean]
    return _figure(title, _cut(every, points), parts)


def by_number(results: Sequence[Result], key: str, metric: Metric) -> str:
    """A figure of the final values by a setting that is a number, a line for each choice of the
    other settings and a dot for each seed; "" if fewer than two trials can be drawn."""
    lines = dict[str, list[tuple[int, float, Result]]]()
    for rank, result in enumerate(results):
        value = result.settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and result.finals:
            others = {k: v for k, v in result.settings.items() if k != key}
            lines.setdefault(repr(others), []).append((rank, float(value), result))
    xs = sorted({x for line in lines.values() for _, x, _ in line})
    if len(xs) < 2:
        return ""
    logarithmic = xs[0] > 0 and xs[-1] / xs[0] >= 8
    place = math.log10 if logarithmic else float
    every = [(place(x), y) for ln in lines.values() for _, x, r in ln for y in r.finals.values()]
    points = _visible(every)
    axes = Across(points)
    parts = frame(axes, metric.unit or metric.title, short(key), [], _label)
    labels = xs if len(xs) <= 5 else [xs[i * (len(xs) - 1) // 4] for i in range(5)]
    parts += [
        f'<text x="{axes.x(place(x)):.1f}" y="{axes.floor + 15}" text-anchor="middle">{x:g}</text>'
        for x in labels
    ]
    for line in lines.values():
        line.sort(key=lambda entry: entry[1])
        best = min(rank for rank, _, _ in line)
        means: Points = [(place(x), _mean(r.finals)) for _, x, r in line]
        parts.append(f'<polyline class="line {colour(best)}" points="{_path(axes, means)}"/>')
        for _, x, result in line:
            for seed, y in result.finals.items():
                text = f"{escape(result.name)} seed {seed}: {y:.4g}"
                parts.append(_dot(axes, place(x), y, best, text))
    note = "; ".join(filter(None, ("a dot a seed", _cut(every, points))))
    return _figure(f"{metric.title} at the end by {short(key)}", note, parts)


class Across(Axes):
    """Axes whose left end is the smallest value, not 0."""

    def __init__(self, points: Points):
        super().__init__(points)
        self.left, self.right = min(x for x, _ in points), max(x for x, _ in points)


def _visible(points: Points) -> Points:
    """The points without values so far off that they would press the others together: those
    beyond three times the range of the better nine tenths of the values."""
    ys = sorted(y for _, y in points)
    if len(ys) < 10:
        return points
    low, middle, high = (ys[round(share * (len(ys) - 1))] for share in (0.1, 0.5, 0.9))
    reach = 3 * max(high - low, 1e-12)
    return [(x, y) for x, y in points if abs(y - middle) <= reach]


def _cut(every: Points, visible: Points) -> str:
    """A note on values that the axes leave out."""
    return "values far off are drawn at the edge" if len(visible) < len(every) else ""


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _whole(numbers: Iterable[float]) -> list[float]:
    return [number for number in numbers if float(number).is_integer()]


def _label(value: float) -> str:
    return f"{value:.6g}"


def _path(axes: Axes, points: Iterable[tuple[float, float]]) -> str:
    pairs = [f"{axes.x(x):.1f},{_inside(axes, y):.1f}" for x, y in points]
    return " ".join(pairs * 2 if len(pairs) == 1 else pairs)


def _inside(axes: Axes, y: float) -> float:
    """The height of a value; of one outside the axes, that of their end."""
    return min(max(axes.y(y), TOP), HEIGHT - BOTTOM)


def _dot(axes: Axes, x: float, y: float, rank: int, text: str) -> str:
    return (
        f'<circle class="dot {colour(rank)}" cx="{axes.x(x):.1f}" cy="{_inside(axes, y):.1f}" '
        f'r="{RADIUS - 1.5}"><title>{text}</title></circle>'
    )


def _figure(title: str, note: str, parts: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{escape(title)}<span>{escape(note)}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )
