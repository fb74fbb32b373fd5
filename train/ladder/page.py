"""ladder.html: one self-contained page with the plots, the table and the laws of a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from train.ladder import plots, texts
from train.ladder.study import Prediction, Study
from train.report.page import page_head

_PAGE = Template(
    page_head("ladder")
    + """.s0 { --c: #2a7449; } .s1 { --c: #b84f13; } .s2 { --c: #3a6ea5; } .s3 { --c: #8a5600; }
.s4 { --c: #8a4a9e; } .s5 { --c: #b3365b; } .law { --c: var(--grey); }
svg .line { fill: none; stroke: var(--c); stroke-width: 1.6; }
svg .dot { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
svg .band { fill: var(--grey); opacity: .18; }
.key { margin: .3rem 0 0; font-size: .8rem; } .key i { font-style: normal; margin-right: .9rem;
  display: inline-block; overflow-wrap: anywhere; color: var(--soft); }
.key i::before { content: "● "; color: var(--c); }
h2 { margin: 1.2rem 0 .5rem; } .remark { color: var(--amber); }
</style>
</head>
<body>
<header><h1>$name</h1><p>$summary</p></header>
<div class="charts">$plots</div>
$laws
<h2>Runs</h2>
<div class="scroll" role="region" aria-label="runs" tabindex="0"><table>$table</table></div>
</body>
</html>
"""
)


def _list(title: str, lines: Sequence[str], css: str = "") -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2>" + "".join(f'<p class="{css}">{escape(x)}</p>' for x in lines)


def page(
    name: str, study: Study, predictions: Sequence[Prediction], remarks: Sequence[str],
    failures: dict[str, str],
) -> str:  # fmt: skip
    """The content of ladder.html."""
    heads, *rows = texts.table(study)
    table = "".join(f"<th>{escape(head)}</th>" for head in heads)
    table = f"<tr>{table}</tr>" + "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    failed = [f"{run} failed: {reason}" for run, reason in failures.items()]
    sizes = len({rung.size for rung in study.rungs})
    return _PAGE.substitute(
        name=escape(name),
        summary=f"{len(study.rungs)} runs of {sizes} sizes.",
        plots=plots.by_compute(study, predictions) + plots.by_tokens(study)
        + plots.best_sizes(study, predictions),
        laws=_list("Laws", texts.laws(study))
        + _list("Predictions", [texts.predicted(p) for p in predictions])
        + _list("Remarks", [*remarks, *failed], "remark"),
        table=table,
    )  # fmt: skip
