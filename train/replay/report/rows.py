"""The answers of a page as JSON, cut where the page would grow too large."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from train.replay.report.content import Content
from train.replay.summary import Column

MOST_BYTES = 4_500_000  # of the rows of a page, which stays below 5 MB
# Characters of a text, tried from the largest; then fewer answers are shown.
CUTS = (20_000, 4_000, 2_000, 1_200, 800)
# Metrics that are marked where an answer has them, in a word.
MARKS = {
    "refusals": "refuses", "personal_data": "personal data", "empty": "empty", "cut": "cut",
}  # fmt: skip
COPIED, REPEATED = 20, 0.5  # words of a copied run, and the share of repetition, that are marked


class Rows(NamedTuple):
    """The rows of a page.

    Attributes:
      json: for a script element. note: what was cut, "" for nothing.
    """

    json: str
    note: str


def rows(content: Content) -> Rows:
    """The rows that fit, the worst regressions first."""
    everything = list(_rows(content))
    for most in CUTS:
        lines = [_line(row, most) for row in everything]
        if sum(len(line.encode()) + 1 for line in lines) <= MOST_BYTES:
            longest = max((len(text) for row in everything for text in _texts(row)), default=0)
            cut = f"Texts are cut at {most:,} characters." if longest > most else ""
            return Rows(f"[{','.join(lines)}]", cut)
    total, kept = 0, []
    for line in lines:
        total += len(line.encode()) + 1
        if total > MOST_BYTES:
            break
        kept.append(line)
    return Rows(
        f"[{','.join(kept)}]",
        f"The worst {len(kept):,} of {len(lines):,} answers are shown, their texts cut at "
        f"{CUTS[-1]:,} characters; the .jsonl beside this page has all.",
    )


def _rows(content: Content):
    """Yields the rows: where, category, earlier messages, question, answers, reason, fault, gap."""
    replay = content.replay
    columns = [*replay.checkpoints, replay.people]
    for regression in content.regressions:
        turn = replay.turns[regression.turn]
        earlier = [[m["role"], m["content"]] for m in turn.messages[:-1]]
        earlier += [["documents", turn.documents]] if turn.documents else []
        yield {
            "w": turn.where,
            "k": turn.category,
            "c": earlier,
            "q": turn.question,
            "a": [_answer(content, column, regression.turn) for column in columns],
            "r": regression.reason,
            "f": regression.fault,
            "g": round(regression.gap, 4),
        }


def _answer(content: Content, column: Column, number: int) -> dict[str, Any]:
    """An answer: its text, its preference score, and what is marked."""
    replay = content.replay
    there = {name: values[number] for name, values in column.values.items()}
    marks = [word for name, word in MARKS.items() if there.get(name) == 1]
    if there.get("copied", 0) >= COPIED:
        marks.append(f"{there['copied']:.0f} words copied")
    if there["repetition"] >= REPEATED:
        marks.append("repeats itself")
    out: dict[str, Any] = {"t": column.texts[number], "m": marks}
    score = float(there.get(replay.preference, np.nan))
    if not np.isnan(score):
        out["s"] = round(score, 3)
    return out


def _texts(row: dict[str, Any]) -> list[str]:
    return [row["q"], *(text for _, text in row["c"]), *(answer["t"] for answer in row["a"])]


def _line(row: dict[str, Any], most: int) -> str:
    """A row as JSON that a script element can hold."""
    shown = row | {
        "q": _cut(row["q"], most),
        "c": [[role, _cut(text, most)] for role, text in row["c"]],
        "a": [answer | {"t": _cut(answer["t"], most)} for answer in row["a"]],
    }
    text = json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… [{len(text) - most:,} characters cut]"
