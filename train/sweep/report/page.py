"""Draws sweep.html: one self-contained page with the verdict, curves, values and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from train.config.run import RunConfig, run_class
from train.report.html import differences
from train.sweep.comparison import BEST, EXPLANATION, Compared
from train.sweep.metric import Metric
from train.sweep.report import charts
from train.sweep.report.style import PAGE
from train.sweep.report.table import difference, failures, with_spread

HEADS = ("trial", "seeds", "final ± sd", "best ± sd", "to the best ± 95%", "")


def page(
    name: str, rows: Sequence[Compared], metric: Metric, verdict: Sequence[str], base: RunConfig
) -> str:
    """The content of sweep.html.

    Args:
      name: of the sweep. rows: the best first. base: the settings that all trials share.
    """
    results = [row.result for row in rows]
    keys = dict.fromkeys(key for result in results for key in result.settings)
    figures = [
        charts.curves(results, f"{metric.title} by step", metric.unit, lambda r: r.curve, True),
        charts.curves(
            results, f"train/{metric.train} by step", metric.unit, lambda r: r.train, False
        ) if metric.train else "",
        *(charts.by_number(results, key, metric) for key in keys),
    ]  # fmt: skip
    better = "lower" if metric.lower else "higher"
    runs = sum(len(result.runs) for result in results)
    unit = f" in {metric.unit}" if metric.unit else ""
    return PAGE.substitute(
        name=escape(name),
        summary=f"{len(results)} trials, {runs} runs of {base.steps:,} steps, compared by "
        f"{escape(metric.title)}{escape(unit)}; {better} is better.",
        verdict=_verdict(verdict),
        curves=_section(
            "Curves",
            "Lines are means over seeds, bands reach from the lowest seed to the highest.",
            f'{charts.legend(results)}<div class="charts">{"".join(figures)}</div>',
        ),
        table=_section("Trials", escape(EXPLANATION), _table(rows)),
        failures=_failures(failures(results)),
        settings=_settings(base, list(keys)),
    )


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{content}</section>"


def _verdict(lines: Sequence[str]) -> str:
    first, *others = (line[:1].upper() + line[1:] for line in lines)
    items = "".join(f"<li>{escape(line)}</li>" for line in others)
    return (
        f'<article class="result lead"><h2>Verdict</h2><strong>{escape(first)}</strong>'
        + (f"<ul>{items}</ul>" if items else "")
        + "</article>"
    )


def _table(rows: Sequence[Compared]) -> str:
    numbers = HEADS[1:5]
    heads = "".join(
        f'<th class="number">{head}</th>' if head in numbers else f"<th>{head}</th>"
        for head in HEADS
    )
    lines = []
    for rank, row in enumerate(rows):
        result = row.result
        cells = (
            f"{len(result.finals)}/{len(result.runs)}",
            with_spread(list(result.finals.values())),
            with_spread(list(result.bests.values())),
            difference(row.paired),
        )
        end = row.verdict if result.is_whole else result.note
        style = ' class="good"' if row.verdict == BEST else ""
        lines.append(
            f'<tr{style}><td><i class="{charts.colour(rank)}"></i>{escape(result.name)}</td>'
            + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
            + f"<td>{escape(end)}</td></tr>"
        )
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _failures(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    items = "".join(
        f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in reasons.items()
    )
    return _section("Runs that failed", "", f'<ul class="failed">{items}</ul>')


def _settings(base: RunConfig, keys: Sequence[str]) -> str:
    """The settings that all trials share and that differ from the defaults."""
    lines = [
        line for line in differences(base, run_class()()) if line.partition(" = ")[0] not in keys
    ]
    return _section(
        "Settings of all trials",
        "Those that differ from the defaults (docs/config.md).",
        f"<pre>{escape(chr(10).join(lines))}</pre>",
    )
