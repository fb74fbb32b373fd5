"""Draws report.html: one self-contained page, its charts inline SVG.

What train/report.py collects goes in; everything that is text is escaped here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import NamedTuple

import jax

from train import checkpoint
from train.config import RunConfig
from train.metrics import duration

# A chart's size and margins, in SVG units: about pixels.
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
MAX_POINTS = 400  # more than a chart is wide would only make the file larger


class Result(NamedTuple):
    """The number of a stage, what to hold beside it, and what it means in plain words."""

    stage: str
    headline: str
    beside: str
    meaning: str


class Answered(NamedTuple):
    """A held-out question, {run: its answer}, and the reference answer ("" if there is none)."""

    question: str
    answers: dict[str, str]
    reference: str


def prose(text: str) -> str:
    """Text as HTML; what stands in backticks is code."""
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
    points = [(r["step"] + shift, r[metric]) for r in records if metric in r]
    return [(x, y) for x, y in points if math.isfinite(y)]


def thin(points: list) -> list:
    """At most MAX_POINTS of them, the last included."""
    return points[::-1][:: -(-len(points) // MAX_POINTS) or 1][::-1]


_PPO_CURVES = {
    "score": "score of the answers",
    "kl": "KL (nats an answer)",
    "length": "length (tokens)",
}


def chart(title: str, line: Sequence, dots: Sequence, percent: bool = False) -> str:
    """A figure of training (`line`) and held-out data (`dots`), both (step, value); "" if empty."""
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
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">step</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    path = " ".join("{:.1f},{:.1f}".format(*at(*p)) for p in thin(list(line)))
    parts.append(f'<polyline class="train" points="{path}"/>')
    for x, y in thin(list(dots)):
        cx, cy = at(x, y)
        parts.append(
            f'<circle class="heldout" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5">'
            f"<title>held out, step {x:g}: {y:.4g}</title></circle>"
        )
    told = [f"{y:.1%}" if percent else f"{y:.3g}" for _, y in dots]
    ends = told[:1] + told[-1:] if len(told) > 1 else told
    note = f"held out {' → '.join(ends)}" if ends else ""
    return (
        f"<figure><figcaption>{escape(title)}<span>{note}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by step">'
        f"{''.join(parts)}</svg></figure>"
    )


def charts(run) -> str:
    """The curves of a run, by what its stage measures."""
    if run.config.stage == "reward":
        line, dots = curve(run.train, "accuracy"), curve(run.evals, "accuracy/overall")
        drawn = [
            chart(
                f"{run.name}: loss (nats a pair)",
                curve(run.train, "loss"),
                curve(run.evals, "loss"),
            ),
            chart(f"{run.name}: pairs ranked right", line, dots, percent=True),
        ]
    elif run.config.stage == "ppo":
        # A rollout is sampled before the step whose record it is in.
        drawn = [
            chart(
                f"{run.name}: {title}",
                curve(run.train, f"rollout/{name}", -1),
                curve(run.evals, name),
            )
            for name, title in _PPO_CURVES.items()
        ]
    else:
        line, dots = curve(run.train, "nats_per_token"), curve(run.evals, "loss")
        drawn = [chart(f"{run.name}: loss (nats a token)", line, dots)]
    return "".join(drawn)


def bars(accuracies: Mapping[str, Mapping[str, float]]) -> str:
    """Accuracies {who: {kind: value}} as bars, the kinds of the first one after another."""
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


def reward_section(found: Mapping) -> str:
    if "reward" not in found:
        return ""
    shown = {"reward model": found["reward"]["heldout_accuracy"]}
    if "judge" in found:
        shown["judge"] = found["judge"]["heldout_accuracy"]
    shown["word overlap"] = found["reward"]["word_overlap_accuracy"]
    return (
        "<section><h2>What the reward model learned</h2><p>Held-out pairs ranked right, by what is "
        "wrong with the worse answer. The line is 50%, a coin’s; word overlap prefers the answer "
        "that shares more words with the question.</p>"
        f'<div class="bars">{bars(shown)}</div></section>'
    )


def answers_section(answered: Sequence[Answered]) -> str:
    if not answered:
        return ""
    cards = []
    for question, answers, reference in answered:
        shown = answers | ({"reference": reference} if reference else {})
        cells = "".join(
            f'<div class="answer{" wanted" if name == "reference" else ""}">'
            f"<h4>{escape(name)}</h4><p>{prose(text.strip()) or '<em>(nothing)</em>'}</p></div>"
            for name, text in shown.items()
        )
        cards.append(
            f'<article><h3>{prose(question)}</h3><div class="answers">{cells}</div></article>'
        )
    return (
        "<section><h2>The same questions, answered by each model</h2><p>Held-out questions, "
        "which fine-tuning did not see. Every model writes its likeliest tokens (temperature 0); "
        f"the reference is the answer in the data.</p>{''.join(cards)}</section>"
    )


def parameters(workdir) -> dict[str, int]:
    """{role: number of parameters} of the models that a run trained."""
    counts = {}
    for role in json.loads((workdir / "models.json").read_text()):
        config = checkpoint.model_config(workdir, role)
        key = jax.random.key(0)
        shapes = jax.eval_shape(
            lambda key, r=role, c=config: checkpoint.init_params(r, c, key), key
        )
        counts[role] = sum(x.size for x in jax.tree.leaves(shapes))
    return counts


def differences(config, default, prefix: str = "") -> list[str]:
    """`key = value` of every leaf of a config that is not the default."""
    out = []
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            out += differences(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            out.append(f"{prefix}{field.name} = {json.dumps(value)}")
    return out


def settings_section(finished: Sequence) -> str:
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
        text = "\n".join(differences(run.config, RunConfig()))
        lists.append(f"<h4>{escape(run.name)}</h4><pre>{escape(text)}</pre>")
    heads = ("stage", "steps", "rows a step", "parameters trained", "time")
    return (
        "<details><summary>Settings</summary>"
        f'<div class="scroll"><table><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr>'
        f"{''.join(rows)}</table></div>"
        f"<p>What differs from the defaults (train/config.py):</p>{''.join(lists)}</details>"
    )


def page(
    finished: Sequence, found: Mapping, results: Sequence[Result], answered: Sequence[Answered]
) -> str:
    """The whole page.

    Args:
      finished: runs in order (train.report.Finished). found: the content of report.json.
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
    return _PAGE.substitute(
        size=f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million",
        device=escape(f"{jax.device_count()} × {jax.devices()[0].device_kind}"),
        total=f"{total} {'hours' if total.count(':') == 2 else 'minutes'}",
        times=times,
        results=cards,
        reward=reward_section(found),
        curves="".join(charts(run) for run in finished),
        answers=answers_section(answered),
        settings=settings_section(finished),
    )


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Seedpod report</title>
<style>
:root {
  --paper: #faf9f5; --card: #ffffff; --ink: #22251f; --soft: #666a5f; --line: #e2e1d8;
  --green: #2e7d4f; --orange: #c8591b; --grey: #a9aca0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #151714; --card: #1e211d; --ink: #e7e6df; --soft: #a0a497; --line: #343831;
    --green: #70c793; --orange: #f0995a; --grey: #6f746a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
h4 { font-size: .8rem; margin: 0; color: var(--soft); font-weight: 600; }
p { margin: 0 0 .75rem; max-width: 46rem; }
header p, section > p { color: var(--soft); }
.times { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0; padding: 0; }
.times li { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .75rem;
  font-size: .875rem; }
.times span { color: var(--soft); font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
article, figure, .bars, details { background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; padding: 1rem 1.25rem; }
.cards h3 { margin: 0; color: var(--soft); font-size: .875rem; }
.cards strong { display: block; font-size: 1.35rem; line-height: 1.3; margin: .15rem 0 .25rem;
  color: var(--green); letter-spacing: -.01em; }
.cards em { display: block; font-style: normal; font-size: .875rem; font-weight: 600;
  margin-bottom: .5rem; }
.cards p { font-size: .9rem; margin: 0; }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; padding: .9rem 1rem .6rem; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .4rem; }
figcaption span { display: block; min-height: 1.55em; color: var(--orange); font-weight: 400;
  font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } .axis { stroke: var(--grey); }
.train { fill: none; stroke: var(--green); stroke-width: 1.8; stroke-linejoin: round; }
.heldout { fill: var(--orange); stroke: var(--card); stroke-width: 1.5; }
.key { font-size: .875rem; } .key b { font-weight: 600; }
.key b:first-of-type { color: var(--green); } .key b:last-of-type { color: var(--orange); }
.bars { display: grid; gap: 1.1rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.bars h4 { color: var(--ink); }
.bar { display: grid; grid-template-columns: 6.5rem 1fr 3.4rem; gap: .6rem; align-items: center;
  font-size: .85rem; line-height: 1.45; }
.bar > span { color: var(--soft); }
.bar b { font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.track { display: block; position: relative; height: .6rem; border-radius: .3rem;
  background: var(--line); }
.track::after { content: ""; position: absolute; left: calc(50% - 1px);
  top: -.15rem; bottom: -.15rem; border-left: 2px solid var(--ink); opacity: .5; }
.track i { display: block; height: 100%; border-radius: .3rem; background: var(--grey); }
.track .who0 { background: var(--green); }
section > article { margin-top: 1rem; }
section > article h3 { margin: 0 0 .6rem; overflow-wrap: anywhere; }
.answers { display: grid; gap: .75rem 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); }
.answer { border-left: 3px solid var(--line); padding-left: .75rem; }
.answer.wanted { border-color: var(--green); }
.answer p { margin: .15rem 0 0; font-size: .9rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.answer em { color: var(--soft); }
details { margin-top: 3rem; } summary { cursor: pointer; font-weight: 600; }
details p { margin-top: 1rem; font-size: .9rem; color: var(--soft); }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
code { font-size: .92em; }
pre { font-size: .8rem; margin: .25rem 0 1rem; overflow-x: auto; }
</style>
</head>
<body>
<header>
<h1>What this run grew</h1>
<p>A language model of $size parameters, trained with Seedpod from one stage to the next on
$device, in <b>$total</b>.</p>
<ul class="times">$times</ul>
</header>
<section>
<h2>Results</h2>
<p>All measured on held-out data.</p>
<div class="cards">$results</div>
</section>
$reward
<section>
<h2>Curves</h2>
<p class="key"><b>Line</b>: training data. <b>Dots</b>: held-out data.</p>
<div class="charts">$curves</div>
</section>
$answers
$settings
</body>
</html>
""")
