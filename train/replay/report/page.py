"""Draws the page of a replay: one self-contained file whose texts are only ever text.

Without its script the page shows everything but the list of all answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from train.replay.measures import METRICS
from train.replay.report.content import Content, shown
from train.replay.report.rows import MARKS, rows
from train.replay.summary import FAULTS, PEOPLE, Regression
from train.report.page import STYLE
from train.sweep.report.table import difference
from train.tasks.evaluation.pairs import verdict

# Regressions and gates at the top of the page; characters of their texts.
WORST, GATES, CLIP = 3, 3, 200
_HERE = Path(__file__).parent
_PREFERRED = {
    "judge": "the judge's score", "reward": "the reward",
    "similarity": "similarity to the people's answer",
}  # fmt: skip
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '$style_hash'; \
script-src '$script_hash'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Seedpod replay: $name</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p>$summary</p></header>
<main>
$lead
$worst
$measures
$categories
<section id="browser" hidden><h2>All answers</h2>
<form id="filters" role="search">
<div><label for="search">Search</label><input id="search" name="search" type="search" \
autocomplete="off"></div>
<div><label for="category">Category</label><select id="category" name="category">$options</select>\
</div>
<div><label for="kind">Which</label><select id="kind" name="kind">$kinds</select></div>
<div><label for="order">Order</label><select id="order" name="order">
<option value="worst">worst first</option><option value="best">best first</option>
<option value="long">longest first</option></select></div>
</form>
<p id="count" role="status"></p>
<ul class="rows" id="answers"></ul>
<button id="more" type="button">Show more</button>
</section>
$notes
</main>
<script type="application/json" id="names">$names</script>
<script type="application/json" id="rows">$rows</script>
<script>$script</script>
</body>
</html>
""")


def page(name: str, content: Content) -> str:
    """The content of NAME.html."""
    replay = content.replay
    style = STYLE + (_HERE / "page.css").read_text()
    script = (_HERE / "page.js").read_text()
    data = rows(content)
    conversations = len({turn.conversation for turn in replay.turns})
    count = f"{conversations:,} conversations"
    if len(replay.turns) > conversations:
        count = f"{len(replay.turns):,} turns of {count}"
    names = filter(None, (replay.first.name, _others(content)))
    columns = [column.name for column in replay.checkpoints] + [PEOPLE]
    return _PAGE.substitute(
        name=escape(name),
        title=escape(" against ".join(names)),
        summary=f"Answers to {count} that people answered. Better is decided by "
        f"{_PREFERRED[replay.preference]}.",
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script),
        lead=_lead(content), worst=_worst(content), measures=_measures(content),
        categories=_categories(content),
        options=_options(["*", *sorted({turn.category for turn in replay.turns})], "all"),
        kinds=_kinds(), notes=_notes(content, data.note),
        names=json.dumps(columns).replace("<", "\\u003c"), rows=data.json,
    )  # fmt: skip


def _hash(text: str) -> str:
    """The source of a Content-Security-Policy that allows one inline text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _options(values: Iterable[str], first: str) -> str:
    return "".join(
        f'<option value="{escape(value)}">{escape(first if value == "*" else value or "(none)")}'
        "</option>"
        for value in values
    )


def _kinds() -> str:
    kinds = {"all": "all", "worse": "worse", "better": "better", "marked": "marked"}
    kinds |= {name: name for name in (*FAULTS, *MARKS.values())}
    return "".join(f'<option value="{key}">{escape(text)}</option>' for key, text in kinds.items())


def _lead(content: Content) -> str:
    """The verdict: the gates, or without any the win rate."""
    replay, verdicts = content.replay, content.verdicts
    failed = [v for v in verdicts if not v.passed]
    lines = [f'<li class="failed">failed: {escape(str(v))}</li>' for v in failed]
    lines += [f'<li class="passed">passed: {escape(str(v))}</li>' for v in verdicts if v.passed]
    if verdicts:
        title = f"{len(failed)} of {len(verdicts)} gates failed" if failed else "All gates passed"
        style = "caution" if failed else "good"
    elif replay.others:
        rate = shown(replay.value("win_rate"), True)
        title, style = f"Preferred to {_others(content)} in {rate} of answers", ""
    else:
        value = shown(replay.value(replay.preference), False)
        title, style = f"{METRICS[replay.preference].title}: {value}", ""
    shown_lines = "".join(lines[:GATES])
    rest = (
        f"<details><summary>{len(lines[GATES:])} more gates</summary>"
        f"<ul>{''.join(lines[GATES:])}</ul></details>"
    )
    return (
        f'<article class="result lead {style}"><strong>{escape(title)}</strong>'
        f"<ul>{shown_lines}</ul>{rest if lines[GATES:] else ''}</article>"
    )


def _others(content: Content) -> str:
    return " or ".join(column.name for column in content.replay.others)


def _worst(content: Content) -> str:
    """The worst regression of each kind, the most frequent first, and how many there are."""
    worse = [r for r in content.regressions if r.fault or r.gap < 0]
    numbers = Counter(r.fault for r in worse)
    kinds = sorted(numbers, key=lambda name: (not name, -numbers[name]))
    counts = [f"{numbers[name]:,} × {name or 'lower score'}" for name in kinds]
    examples = [next(r for r in worse if r.fault == name) for name in kinds]
    examples += [r for r in worse if r not in examples]
    text = f"{', '.join(counts) or 'None'}.{_worst_category(content)}"
    items = "".join(_item(content, r) for r in examples[:WORST])
    return (
        f"<section><h2>Worst regressions</h2><p>{escape(text)}</p>"
        f'<ol class="rows worst">{items}</ol></section>'
    )


def _worst_category(content: Content) -> str:
    """A sentence about the category with the lowest win rate."""
    names = [decision.category for decision in content.decisions]
    if not content.replay.others or len(names) < 2:
        return ""
    rates = {name: content.replay.value("win_rate", category=name) for name in names}
    worst = min(rates, key=lambda name: rates[name].value)
    return f" Worst category: {worst or '(none)'}, preferred in {shown(rates[worst], True)}."


def _item(content: Content, regression: Regression) -> str:
    replay = content.replay
    turn = replay.turns[regression.turn]
    scores = {c.name: c.values[replay.preference][regression.turn] for c in replay.others}
    best = max(replay.others, key=lambda column: scores[column.name], default=replay.people)
    answers = "".join(
        f'<p dir="auto"><b>{escape(column.name)}</b> '
        f"{escape(_clipped(column.texts[regression.turn]) or '(nothing)')}</p>"
        for column in (replay.first, best)
    )
    return (
        f"<li><h3><b>{escape(regression.reason)}</b><span>{escape(turn.category)}</span></h3>"
        f'<p class="question" dir="auto">{escape(_clipped(turn.question))}</p>'
        f"{answers}</li>"
    )


def _clipped(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= CLIP else f"{text[:CLIP]}…"


def _table(label: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<tr>{head}</tr>{body}</table></div>"
    )


def _cell(text: str, style: str = "") -> str:
    return f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>"


def _measures(content: Content) -> str:
    """The metrics of all, with the differences from the first of the others."""
    replay = content.replay
    columns = [*replay.checkpoints, replay.people]
    heads = ["measure", *(escape(column.name) for column in columns)]
    heads += [f"difference from {escape(other.name)}" for other in replay.others]
    lines = []
    for name in content.found():
        metric = METRICS[name]
        cells = [_cell(metric.title)]
        for column in columns:
            has = name in content.metrics_of(column)
            text = shown(replay.value(name, column), metric.percent) if has else ""
            cells.append(_cell(text))
        for other in replay.others:
            if name == "win_rate" and len(replay.others) > 1:
                cells.append(_cell(shown(replay.win_rate(replay.first, other), True)))
                continue
            if name not in replay.first.values or name not in other.values:
                cells.append(_cell(""))
                continue
            test = replay.difference(name, other)
            word = verdict(test, (test.difference > 0) == (metric.better == "higher"))
            styles = {"better": "passed", "worse": "failed"} if metric.better else {}
            end = f" {word}" if word in styles else ""
            if metric.percent:
                mean, low, high = (100 * x for x in test[:3])
                test = test._replace(difference=mean, low=low, high=high)
                end = f" points{end}"
            cells.append(_cell(f"{difference(test)}{end}", styles.get(word, "")))
        lines.append(cells)
    text = "95% intervals; those of several answers of a conversation count it once."
    return f"<section><h2>Measures</h2><p>{text}</p>{_table('measures', heads, lines)}</section>"


def _categories(content: Content) -> str:
    """Who answers each category, and how the first checkpoint does there."""
    if not any(decision.category for decision in content.decisions):
        return ""
    wanted = [condition.metric for condition in content.conditions]
    wanted = wanted or ["win_rate", content.replay.preference, "refusals.harmless"]
    names = [name for name in dict.fromkeys(wanted) if name in content.available]
    heads = ["category", "who answers", "conversations", *(METRICS[n].title for n in names)]
    heads += ["why"] * bool(content.conditions)
    lines = []
    for decision in content.decisions:
        who = ("the model may", "may") if decision.answers else ("stays with people", "stays")
        values = [content.replay.value(name, category=decision.category) for name in names]
        cells = [_cell(shown(v, METRICS[n].percent)) for n, v in zip(names, values, strict=True)]
        lines.append([
            _cell(decision.category or "(none)"), _cell(*who), _cell(f"{decision.conversations:,}"),
            *cells, *[_cell(decision.reason, "reason")] * bool(content.conditions),
        ])  # fmt: skip
    needs = " and ".join(map(str, content.conditions))
    text = f"The model may answer a category that has {needs}."
    if not needs:
        text = f"All stay with people: {content.decisions[0].reason}."
    table = _table("categories", heads, lines)
    return f"<section><h2>Who answers what</h2><p>{escape(text)}</p>{table}</section>"


def _notes(content: Content, cut: str) -> str:
    """The notes, and the settings that decide the answers."""
    checkpoints = content.settings.get("checkpoints", ())
    others = {k: v for k, v in content.settings.items() if k != "checkpoints" and v != ""}
    notes = [*content.notes, *filter(None, [cut])]
    notes += [f"{m['name']}: weights {m['weights']}, {m['dtype']}" for m in checkpoints]
    notes.append(", ".join(f"{name}: {value}" for name, value in others.items()))
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section><h2>Notes</h2><ul class="notes">{items}</ul></section>'
