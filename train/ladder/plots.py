"""Plots of a ladder as inline SVG, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from train.ladder.laws import Estimate, Law, optimum
from train.ladder.study import Prediction, Study
from train.ladder.texts import short
from train.report import charts

COLOURS = 6  # of sizes, `s0` to `s5` of the page
_POINTS = 40  # of a law's line
Points = Sequence[tuple[float, float]]


class LogAxes(charts.Axes):
    """Axes that are both logarithmic; `left` to `top` are values, and not their logarithms."""

    def __init__(self, points: Points):
        xs, ys = np.array(points).T
        self.left, self.right = _widened(xs.min(), xs.max(), 1.15)
        self.bottom, self.top = _widened(ys.min(), ys.max(), 1.02)
        self.floor = charts.HEIGHT - charts.BOTTOM

    def x(self, value: float) -> float:
        inset, width = charts.RADIUS + 2, charts.WIDTH - charts.LEFT - charts.RIGHT
        share = math.log(value / self.left) / math.log(self.right / self.left)
        return charts.LEFT + inset + share * (width - 2 * inset)

    def y(self, value: float) -> float:
        share = math.log(self.top / value) / math.log(self.top / self.bottom)
        return charts.TOP + share * (self.floor - charts.TOP)


class Series(NamedTuple):
    """The marks of a plot in one colour.

    Attributes:
      colour: the number of a size, or -1 of none. dots: (x, y, title). line: points.
      band: (x, low, high).
    """

    name: str
    colour: int
    dots: Sequence[tuple[float, float, str]] = ()
    line: Points = ()
    band: Sequence[tuple[float, float, float]] = ()


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    margin = max((high / low) ** 0.06, least**0.5)
    return low / margin, high * margin


def _powers(least: float, most: float) -> list[float]:
    """Round numbers of a logarithmic axis: powers of ten, at least two and at most about five."""
    low, high = math.log10(least), math.log10(most)
    step = max(1, math.ceil((high - low) / 5))
    powers = [10.0**n for n in range(math.ceil(low), math.floor(high) + 1, step)]
    if len(powers) >= 2:
        return powers
    return [m * 10.0**n for n in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)
            if least <= m * 10.0**n <= most]  # fmt: skip


def plot(
    title: str, unit: str, across: str, series: Iterable[Series], note: str = "",
    label: Callable[[float], str] = lambda value: f"{value:.4g}",
) -> str:  # fmt: skip
    """A figure of series; "" if they have no points.

    Args:
      unit, across: the titles of the axes. note: below the title. label: of a value of y.
    """
    series = list(series)
    points = [(x, y) for s in series for x, y, *_ in s.dots]
    points += [point for s in series for point in s.line]
    points += [(x, y) for s in series for x, *ys in s.band for y in ys]
    if not points:
        return ""
    axes = LogAxes(points)
    heights = _powers(axes.bottom, axes.top) if axes.top > 10 * axes.bottom else ()
    parts = charts.frame(axes, unit, escape(across), _powers(axes.left, axes.right), label, heights)
    for s in series:
        css = f"s{s.colour % COLOURS}" if s.colour >= 0 else "law"
        if s.band:
            edge = [(x, high) for x, _, high in s.band] + [(x, low) for x, low, _ in s.band[::-1]]
            parts.append(f'<polygon class="band" points="{_path(axes, edge)}"/>')
        if s.line:
            parts.append(f'<polyline class="{css} line" points="{_path(axes, s.line)}"/>')
    for s in series:
        css = f"s{s.colour % COLOURS}" if s.colour >= 0 else "law"
        for x, y, text in s.dots:
            parts.append(
                f'<circle class="{css} dot" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" '
                f'r="{charts.RADIUS}"><title>{escape(text)}</title></circle>'
            )
    keys = "".join(
        f'<i class="s{s.colour % COLOURS}">{escape(s.name)}</i>' for s in series if s.colour >= 0
    )
    return (
        f"<figure><figcaption>{escape(title)}<span>{escape(note)}</span></figcaption>"
        f'<svg viewBox="0 0 {charts.WIDTH} {charts.HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><p class="key">{keys}</p></figure>'
    )


def _path(axes: LogAxes, points: Points) -> str:
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)


def _line(xs: Sequence[float], value: Callable[[float], Estimate]) -> Series:
    found = [(x, value(x)) for x in xs]
    band = [(x, e.low, e.high) for x, e in found if math.isfinite(e.high) and e.low > 0]
    return Series("", -1, (), [(x, e.value) for x, e in found], band)


def _spread(low: float, high: float) -> list[float]:
    return [float(x) for x in np.geomspace(low, high, _POINTS)]


def by_compute(study: Study, predictions: Sequence[Prediction]) -> str:
    """Losses over FLOPs with L(C), as far as the predictions go."""
    sizes = list(dict.fromkeys(rung.size for rung in study.rungs))
    series = [
        Series(size, i, [(r.flops, r.loss, f"{r.name}: {r.loss:.4f}")
                         for r in study.rungs if r.size == size])
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    if study.compute and study.rungs:
        costs = [r.flops for r in study.rungs] + [p.flops for p in predictions if p.by_compute]
        spread = _spread(min(costs), max(costs))
        series.insert(0, _line(spread, study.compute.loss))
    return plot(
        "Loss by compute", "nats a token", "FLOPs", series,
        "line: L(C), fitted to the best runs" if study.compute else "",
    )  # fmt: skip


def by_tokens(study: Study) -> str:
    """Losses over tokens, a line of L(N, D) a size."""
    series = []
    for i, size in enumerate(dict.fromkeys(rung.size for rung in study.rungs)):
        runs = [rung for rung in study.rungs if rung.size == size]
        dots = [(r.tokens, r.loss, f"{r.name}: {r.loss:.4f}") for r in runs]
        line = ()
        if law := study.joint:
            spread = _spread(min(r.tokens for r in runs), max(r.tokens for r in runs))
            line = [(d, law.loss(runs[0].parameters, d).value) for d in spread]
        series.append(Series(size, i, dots, line))
    note = "lines: L(N, D)" if study.joint else ""
    return plot("Loss by tokens", "nats a token", "tokens", series, note)


def best_sizes(study: Study, predictions: Sequence[Prediction]) -> str:
    """The compute-optimal number of parameters over FLOPs."""
    law = study.joint
    if law is None:
        return ""
    costs = [r.flops for r in study.rungs] + [p.flops for p in predictions]

    def parameters(flops: float) -> Estimate:
        assert isinstance(law, Law)
        return optimum(law, flops)[0]

    line = _line(_spread(min(costs), max(costs)), parameters)
    return plot(
        "Compute-optimal size", "parameters", "FLOPs", [line],
        "by L(N, D) and C = 6·N·D", short,
    )  # fmt: skip
