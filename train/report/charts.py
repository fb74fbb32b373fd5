"""Charts of the report as inline SVG, and accuracies as bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from train.objectives import registry
from train.objectives.reporting import Bars, Curve, Finished, of, pairs_right

# A chart's size and margins, in SVG units: about pixels.
WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 62, 6, 8, 38
RADIUS = 4.5  # of a dot
MAX_POINTS = 400  # above the width of a chart, more points only make the file larger

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curve(records: Iterable[Mapping], metric: str, shift: int = 0) -> list[tuple[float, float]]:
    """(step + shift, value) of the records that have a finite `metric`."""
    points = [(r["step"] + shift, r[metric]) for r in records if r.get(metric) is not None]
    return [(x, y) for x, y in points if math.isfinite(y)]


def against(records: Iterable[Mapping], across: str, metric: str) -> list[tuple[float, float]]:
    """(`across`, `metric`) of the records in which both are finite numbers."""
    pairs = [(r.get(across), r.get(metric)) for r in records]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [point for point in points if all(map(math.isfinite, point))]


def thin(points: list) -> list:
    """At most MAX_POINTS of the points, including the last one."""
    return points[::-1][:: -(-len(points) // MAX_POINTS) or 1][::-1]


class Axes:
    """The mapping of values to the plot area; its inset keeps dots at the ends inside."""

    def __init__(self, points: Points):
        xs, ys = zip(*points, strict=True)
        self.left, self.right = min(*xs, 0), max(xs)
        if self.right <= self.left:
            self.right = self.left + 1
        margin = 0.06 * (max(ys) - min(ys)) or abs(max(ys)) * 0.1 or 1.0
        self.bottom, self.top = min(ys) - margin, max(ys) + margin
        self.floor = HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        inset, width = RADIUS + 2, WIDTH - LEFT - RIGHT
        share = (value - self.left) / (self.right - self.left)
        return LEFT + inset + share * (width - 2 * inset)

    def y(self, value: float) -> float:
        return TOP + (self.top - value) / (self.top - self.bottom) * (self.floor - TOP)


def frame(
    axes: Axes, unit: str, across: str, numbers: Iterable[float], label: Callable[[float], str],
    heights: Iterable[float] = (),
) -> list[str]:  # fmt: skip
    """The SVG of axes with their titles, a grid, and labels: `numbers` on the x axis, and on the
    y axis `heights`, by default round numbers of equal distance."""
    parts = []
    for value in heights or ticks(axes.bottom, axes.top):
        y = axes.y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>'
        )
    for value in numbers:
        x = f'x="{axes.x(value):.1f}"'
        parts.append(f'<text {x} y="{axes.floor + 15}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + axes.floor) / 2
    parts.append(
        f'<path class="axis" d="M{LEFT},{TOP} V{axes.floor} H{WIDTH - RIGHT}"/>'
        f'<text x="{middle[0]}" y="{HEIGHT - 6}" text-anchor="middle">{across}</text>'
        f'<text transform="translate(11 {middle[1]}) rotate(-90)" text-anchor="middle">'
        f"{escape(unit)}</text>"
    )
    return parts


def chart(
    title: str, unit: str, line: Points, dots: Points, percent: bool = False, across: str = "",
    note: str = "",
) -> str:  # fmt: skip
    """A figure of training data (`line`) and held-out data (`dots`); "" if there are none.

    Args:
      unit: the title of the y axis. percent: whether values are shares.
      across: the title of the x axis; empty for steps. note: follows the held-out values.
    """
    if not (line or dots):
        return ""
    axes, across_title = Axes([*line, *dots]), escape(across or "optimizer step")

    def label(value):
        return f"{value * 100:.4g}%" if percent else f"{value:.6g}"

    numbers = [x for x in ticks(axes.left, axes.right) if across or float(x).is_integer()]
    parts = frame(axes, unit, across_title, numbers, label)
    path = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in thin(list(line))]
    # One point alone is drawn as a line to itself, which has round ends.
    parts.append(
        f'<polyline class="train" points="{" ".join(path * 2 if len(path) == 1 else path)}"/>'
    )
    for x, y in thin(list(dots)):
        parts.append(
            f'<circle class="heldout" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="{RADIUS}">'
            f"<title>held out, {across_title} {x:.4g}: {y:.4g}</title></circle>"
        )
    values = [f"{y:.1%}" if percent else f"{y:.3g}" for _, y in dots]
    ends = values[:1] + values[-1:] if len(values) > 1 else values
    heldout = f"held out {' → '.join(ends)}{note}" if values else ""
    name = escape(f"{title} by {across or 'optimizer step'}; {heldout}")
    return (
        f"<figure><figcaption>{escape(title)}<span>{escape(heldout)}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _chart(run: Finished, c: Curve) -> str:
    title, note = f"{run.name}: {c.title}", ""
    if c.trials and (count := run.metric(c.trials)):
        note = f" of {count:,.0f}"
    if c.across:
        label, train, heldout = c.across
        line, dots = against(run.train, train, c.train), against(run.evals, heldout, c.heldout)
        return chart(title, c.unit, line, dots, c.percent, label, note)
    line, dots = curve(run.train, c.train, c.shift), curve(run.evals, c.heldout)
    return chart(title, c.unit, line, dots, c.percent, "", note)


def charts(run: Finished) -> str:
    """The charts of a run, as its objective's report defines them."""
    return "".join(_chart(run, c) for c in registry.STAGES[run.config.stage].report.curves)


def bars(section: Bars) -> str:
    """Accuracies as bars, grouped by the kinds of the first entry, with the counts behind them."""
    groups = []
    for kind in next(iter(section.accuracies.values())):
        rows = "".join(
            _bar(number, who, kind, values, section.counts.get(who, {}))
            for number, (who, values) in enumerate(section.accuracies.items())
            if kind in values
        )
        groups.append(f"<div><h3>{escape(kind.replace('_', ' '))}</h3>{rows}</div>")
    return "".join(groups)


def _bar(number: int, who: str, kind: str, values: Mapping, counts: Mapping) -> str:
    value, text = values[kind], ""
    if kind in counts:
        right = pairs_right(values, counts) if kind == "overall" else None
        right = value * counts[kind] if right is None else right
        text = f"<small>{of(right, counts[kind])}</small>"
    width = value if math.isfinite(value) else 0.0
    return (
        f'<div class="bar"><span>{escape(who)}</span>'
        f'<i class="track"><i class="who{number}" style="width:{width:.1%}"></i></i>'
        f"<b>{value:.1%}</b>{text}</div>"
    )
