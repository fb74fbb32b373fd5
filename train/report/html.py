"""Draws report.html: one self-contained page with charts as inline SVG.

Its input comes from train/report/collect.py; all text is escaped here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import jax
from etils import epath

from train.config.run import run_class
from train.objectives import registry
from train.objectives.reporting import Finished, Result
from train.report.page import PAGE
from train.runtime import checkpoint
from train.terminal.console import duration

# A chart's size and margins, in SVG units: about pixels.
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
MAX_POINTS = 400  # above the width of a chart, more points only make the file larger


class Answered(NamedTuple):
    """A held-out question, {run: its answer}, and the reference answer, or ""."""

    question: str
    answers: dict[str, str]
    reference: str


def prose(text: str) -> str:
    """Text as HTML; text in backticks becomes code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


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


def chart(
    title: str, line: Sequence, dots: Sequence, percent: bool = False, across: str = "step"
) -> str:
    """A figure of training data (`line`) and held-out data (`dots`), both of points (x, value),
    where x is `across`; "" if there are none."""
    points = [*line, *dots]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    right = max(max(xs), 1)
    bottom, top = min(ys), max(ys)
    margin = 0.06 * (top - bottom) or abs(top) * 0.1 or 1.0
    bottom, top = bottom - margin, top + margin

    def at(x, y):
        return (
            LEFT + x / right * (WIDTH - LEFT - RIGHT),
            TOP + (top - y) / (top - bottom) * (HEIGHT - TOP - BOTTOM),
        )

    def label(value):
        return f"{value * 100:.4g}%" if percent else f"{value:.6g}"

    parts = []
    for value in ticks(bottom, top):
        _, y = at(0, value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>'
        )
    floor = HEIGHT - BOTTOM
    for value in ticks(0, right):
        x, _ = at(value, bottom)
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{across}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    path = " ".join("{:.1f},{:.1f}".format(*at(*p)) for p in thin(list(line)))
    parts.append(f'<polyline class="train" points="{path}"/>')
    for x, y in thin(list(dots)):
        cx, cy = at(x, y)
        parts.append(
            f'<circle class="heldout" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5">'
            f"<title>held out, {across} {x:.4g}: {y:.4g}</title></circle>"
        )
    values = [f"{y:.1%}" if percent else f"{y:.3g}" for _, y in dots]
    first_and_last = values[:1] + values[-1:] if len(values) > 1 else values
    note = f"held out {' → '.join(first_and_last)}" if values else ""
    return (
        f"<figure><figcaption>{escape(title)}<span>{note}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by {across}">'
        f"{''.join(parts)}</svg></figure>"
    )


def charts(run: Finished) -> str:
    """The charts of a run, as its objective's report defines them."""
    figures = []
    for c in registry.STAGES[run.config.stage].report.curves:
        title = f"{run.name}: {c.title}"
        if c.across:
            label, train, heldout = c.across
            line, dots = against(run.train, train, c.train), against(run.evals, heldout, c.heldout)
            figures.append(chart(title, line, dots, c.percent, label))
        else:
            line, dots = curve(run.train, c.train, c.shift), curve(run.evals, c.heldout)
            figures.append(chart(title, line, dots, c.percent))
    return "".join(figures)


def bars(accuracies: Mapping[str, Mapping[str, float]]) -> str:
    """Accuracies {who: {kind: value}} as bars, grouped by the kinds of the first entry."""
    groups = []
    for kind in next(iter(accuracies.values())):
        rows = "".join(
            f'<div class="bar"><span>{escape(who)}</span>'
            f'<i class="track"><i class="who{number}" style="width:{values[kind]:.1%}"></i></i>'
            f"<b>{values[kind]:.1%}</b></div>"
            for number, (who, values) in enumerate(accuracies.items())
            if kind in values
        )
        groups.append(f"<div><h4>{escape(kind.replace('_', ' '))}</h4>{rows}</div>")
    return "".join(groups)


def bars_sections(report: Mapping) -> str:
    """The sections with accuracies, of the objectives that have one.

    Args:
      report: the content of report.json.
    """
    sections = []
    for stage in (name for name in report if name in registry.STAGES):
        if report[stage] and (section := registry.STAGES[stage].report.bars(report[stage], report)):
            sections.append(
                f"<section><h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>"
                f'<div class="bars">{bars(section.accuracies)}</div></section>'
            )
    return "".join(sections)


def answers_section(answered: Sequence[Answered]) -> str:
    """The section with held-out questions and each model's answer; "" if there are none."""
    if not answered:
        return ""
    cards = []
    for question, answers, reference in answered:
        texts = answers | ({"reference": reference} if reference else {})
        cells = "".join(
            f'<div class="answer{" wanted" if name == "reference" else ""}">'
            f"<h4>{escape(name)}</h4><p>{prose(text.strip()) or '<em>(nothing)</em>'}</p></div>"
            for name, text in texts.items()
        )
        cards.append(
            f'<article><h3>{prose(question)}</h3><div class="answers">{cells}</div></article>'
        )
    return (
        "<section><h2>The same questions, answered by each model</h2><p>Held-out questions, "
        "which fine-tuning did not see. Every model writes its likeliest tokens (temperature 0); "
        f"the reference is the answer in the data.</p>{''.join(cards)}</section>"
    )


def parameters(workdir: epath.PathLike) -> dict[str, int]:
    """{role: number of parameters} of the models that a run trained."""
    counts = {}
    for role in checkpoint.read_models(workdir):
        config = checkpoint.model_config(workdir, role)
        key = jax.random.key(0)
        shapes = jax.eval_shape(
            lambda key, r=role, c=config: checkpoint.init_params(r, c, key), key
        )
        counts[role] = sum(x.size for x in jax.tree.leaves(shapes))
    return counts


def differences(config: Any, default: Any, prefix: str = "") -> list[str]:
    """`key = value` for every leaf of a config that differs from the default."""
    out = []
    for field in dataclasses.fields(config):
        value, unset = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            out += differences(value, unset, f"{prefix}{field.name}.")
        elif value != unset:
            out.append(f"{prefix}{field.name} = {json.dumps(value, default=dataclasses.asdict)}")
    return out


def settings_section(finished: Sequence[Finished]) -> str:
    """The section with sizes, times and non-default settings of every run."""
    rows, lists = [], []
    for run in finished:
        counts = parameters(run.workdir)
        sizes = ", ".join(f"{role} {n:,}" for role, n in counts.items())
        cells = (
            run.name,
            f"{run.config.steps:,}",
            f"{run.config.data.batch_size}",
            sizes,
            duration(run.seconds),
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        text = "\n".join(differences(run.config, run_class()()))
        lists.append(f"<h4>{escape(run.name)}</h4><pre>{escape(text)}</pre>")
    heads = ("stage", "steps", "rows a step", "parameters trained", "time")
    return (
        "<details><summary>Settings</summary>"
        f'<div class="scroll"><table><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr>'
        f"{''.join(rows)}</table></div>"
        "<p>Settings that differ from the defaults (train/config/run.py):</p>"
        f"{''.join(lists)}</details>"
    )


def page(
    finished: Sequence[Finished],
    report: Mapping,
    results: Sequence[Result],
    answered: Sequence[Answered],
) -> str:
    """The content of report.html.

    Args:
      finished: runs in order. report: the content of report.json.
    """
    size = next(iter(parameters(finished[0].workdir).values()))
    total = duration(sum(run.seconds for run in finished))
    cards = "".join(
        f"<article><h3>{escape(r.stage)}</h3><strong>{escape(r.headline)}</strong>"
        f"<em>{escape(r.beside)}</em><p>{escape(r.meaning)}</p></article>"
        for r in results
    )
    times = "".join(
        f"<li>{escape(run.name)} <span>{duration(run.seconds)}</span></li>" for run in finished
    )
    return PAGE.substitute(
        size=f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million",
        device=escape(f"{jax.device_count()} × {jax.devices()[0].device_kind}"),
        total=f"{total} {'hours' if total.count(':') == 2 else 'minutes'}",
        times=times,
        results=cards,
        bars=bars_sections(report),
        curves="".join(charts(run) for run in finished),
        answers=answers_section(answered),
        settings=settings_section(finished),
    )
