"""Draws report.html: one self-contained page with charts as inline SVG.

Its input comes from train/report/collect.py; all text is escaped here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import jax
from etils import epath

from data.ramp import Ramp
from train.checkpoints import networks, saved_models
from train.config.run import RunConfig, run_class
from train.evals.generative import Text
from train.objectives import registry
from train.objectives.reporting import Bars, Finished, Result
from train.report import charts
from train.report.page import PAGE
from train.terminal.console import duration

# Longer texts are clipped to about this size, with a control that shows them whole.
CLIP, CLIP_LINES = 280, 6


class Answered(NamedTuple):
    """A held-out question, {run: its answer}, and the reference answer, or "".

    Attributes:
      limit: the most tokens of an answer.
    """

    question: str
    answers: dict[str, Text]
    reference: str
    limit: int


def prose(text: str) -> str:
    """Text as HTML; text in backticks becomes code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def clipped(text: str) -> str:
    """Text as HTML; a long one shows its beginning, and the whole on a click."""
    start = "\n".join(text[:CLIP].split("\n")[:CLIP_LINES])
    if len(text) <= len(start) + 40:
        return f'<p dir="auto">{prose(text)}</p>'
    start = start.rpartition(" ")[0] or start
    return (
        f'<details class="long"><summary dir="auto"><span class="start">{prose(start)} … '
        '<u>show all</u></span><u class="less">show less</u></summary>'
        f'<p dir="auto">{prose(text)}</p></details>'
    )


def section(title: str, intro: str, content: str, wide: bool = True) -> str:
    """A section that opens on a click, and with `wide` is open on a wide screen; "" if empty."""
    if not content:
        return ""
    return (
        f'<details class="section{" wide" if wide else ""}"><summary><h2>{escape(title)}</h2>'
        f"</summary><p>{intro}</p>{content}</details>"
    )


def card(name: str, result: Result, lead: bool = False) -> str:
    """A result as an article."""
    method = (
        "" if result.method.lower() == name.lower() else f" <span>{escape(result.method)}</span>"
    )
    reason = result.stated_reason
    return (
        f'<article class="result {"lead " if lead else ""}{escape(result.verdict)}">'
        f"<h2>{escape(name)}{method}</h2><strong>{escape(result.headline)}</strong>"
        f"<em>{escape(result.beside)}</em>"
        + (f'<em class="reason">{escape(reason[:1].upper() + reason[1:])}</em>' if reason else "")
        + '<details class="wide meaning"><summary>what this means</summary>'
        f"<p>{escape(result.meaning)}</p></details></article>"
    )


def results_section(finished: Sequence[Finished], results: Mapping[str, Result]) -> str:
    """The results of all runs, that of the last one that answers questions first."""
    answering = [
        run.name
        for run in finished
        if run.name in results and registry.STAGES[run.config.stage].answers
    ]
    if not results:
        return "<p>Nothing was measured.</p>"
    lead = [*results, *answering][-1]
    others = "".join(card(name, result) for name, result in results.items() if name != lead)
    return f'{card(lead, results[lead], lead=True)}<div class="cards">{others}</div>'


def bars_section(bars: Bars) -> str:
    """A section with accuracies; "" if there are none."""
    drawn = charts.bars(bars)
    return section(bars.title, escape(bars.text), drawn and f'<div class="bars">{drawn}</div>')


def answers_section(answered: Sequence[Answered]) -> str:
    """The section with held-out questions and each model's answer; "" if there are none."""
    cards = []
    for question, answers, reference, limit in answered:
        cells = []
        for name, (text, cut) in answers.items():
            mark = f'<p class="cut">cut at {limit} tokens</p>' if cut else ""
            body = clipped(text.strip()) if text.strip() else "<p><em>(nothing)</em></p>"
            cells.append(f'<div class="answer"><h4>{escape(name)}</h4>{body}{mark}</div>')
        if reference:
            body = clipped(reference.strip())
            cells.append(f'<div class="answer wanted"><h4>reference</h4>{body}</div>')
        cards.append(
            f"<article><h3>Question</h3>{clipped(question.strip())}"
            f'<div class="answers">{"".join(cells)}</div></article>'
        )
    return section(
        "The same questions, answered by each model",
        "Held-out questions, which fine-tuning did not see. Every model writes its likeliest "
        "tokens (temperature 0); the reference is the answer in the data.",
        "".join(cards),
    )


def parameters(workdir: epath.PathLike) -> dict[str, int]:
    """{role: number of parameters} of the models that a run trained."""
    counts = {}
    for role in saved_models.read_models(workdir):
        config = saved_models.model_config(workdir, role)
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda key, r=role, c=config: networks.init_params(r, c, key), key)
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


def made_list(finished: Sequence[Finished]) -> str:
    """When, where and with what the runs were trained; runs that agree share a list."""
    groups: dict[tuple, list[Finished]] = {}
    for run in finished:
        facts = tuple((name, value) for name, value in run.made.items() if name != "date")
        groups.setdefault(facts, []).append(run)
    lists = []
    for facts, runs in groups.items():
        rows = [("stages", ", ".join(run.name for run in runs))] if len(groups) > 1 else []
        dates = [run.made["date"] for run in runs if "date" in run.made]
        rows += [("date", dates[-1])] if dates else [("made", "not recorded")]
        items = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
            for name, value in [*rows, *facts]
        )
        lists.append(f"<dl>{items}</dl>")
    return "".join(lists)


def rows_a_step(config: RunConfig) -> str:
    """The rows of a step, as `16`; with a ramp those of the first and of the last, `4 to 16`."""
    rows = [level.rows for level in Ramp.of(vars(config.data)).levels]
    return " to ".join(map(str, dict.fromkeys((rows[0], rows[-1]))))


def settings_section(finished: Sequence[Finished]) -> str:
    """The section with the origin, sizes, times and non-default settings of every run."""
    rows, lists = [], []
    for run in finished:
        counts = parameters(run.workdir)
        sizes = ", ".join(f"{role} {n:,}" for role, n in counts.items())
        cells = (
            run.name,
            f"{run.config.steps:,}",
            rows_a_step(run.config),
            sizes,
            duration(run.seconds),
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        text = "\n".join(differences(run.config, run_class()()))
        lists.append(f"<h3>{escape(run.name)}</h3><pre>{escape(text)}</pre>")
    heads = ("stage", "steps", "rows a step", "parameters trained", "time")
    return section(
        "How it was made",
        f"Total time: {duration(sum(run.seconds for run in finished))}.",
        f"{made_list(finished)}"
        '<div class="scroll" role="region" aria-label="stages" tabindex="0"><table>'
        f"<tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>{''.join(rows)}</table></div>"
        f"<p>Settings that differ from the defaults (train/config/run.py):</p>{''.join(lists)}",
        wide=False,
    )


def _summary(finished: Sequence[Finished]) -> str:
    """A sentence: the model's size, the stages, the time and the devices of the last stage."""
    size = next(iter(parameters(finished[0].workdir).values()))
    total = duration(sum(run.seconds for run in finished))
    hours = "hours" if total.count(":") == 2 else "minutes"
    made = finished[-1].made
    machine = f" on {made['devices']}" if "devices" in made else ""
    if "processor" in made:
        machine += f" ({made['processor']}, {made['cores']} cores)"
    units = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
    unit, word = next(((x, name) for x, name in units if size >= x), (1, ""))
    number = f"{size / unit:.1f} {word}" if word else f"{size}"
    stages = f"{len(finished)} stage{'s' if len(finished) > 1 else ''}"
    return (
        f"A language model of {number} parameters, trained in {stages} in <b>{total} {hours}</b>"
        f"{escape(machine)}."
    )


def _version(finished: Sequence[Finished]) -> str:
    """The date, commit and version of the last stage."""
    made = finished[-1].made
    commit, plus, changes = str(made.get("commit", "")).partition("+")
    parts = [str(made.get("date", ""))[:10]]
    parts += [f"commit {commit[:10]}{plus}{changes}" if commit else ""]
    parts += [f"Seedpod {made['seedpod']}" if "seedpod" in made else ""]
    return escape(" · ".join(filter(None, parts)))


def page(
    name: str,
    finished: Sequence[Finished],
    results: Mapping[str, Result],
    bars: Iterable[Bars],
    answered: Iterable[Answered],
) -> str:
    """The content of report.html.

    Args:
      name: the chain's. finished: runs in order. results: {run: its result}.
    """
    times = "".join(
        f"<li>{escape(run.name)} <span>{duration(run.seconds)}</span></li>" for run in finished
    )
    curves = "".join(charts.charts(run) for run in finished)
    key = '<b class="line">Line</b>: training data. <b class="dots">Dots</b>: held-out data.'
    return PAGE.substitute(
        name=escape(name),
        summary=_summary(finished),
        version=_version(finished),
        times=times,
        results=results_section(finished, results),
        bars="".join(map(bars_section, bars)),
        curves=section("Curves", key, curves and f'<div class="charts">{curves}</div>'),
        answers=answers_section(list(answered)),
        settings=settings_section(finished),
    )
