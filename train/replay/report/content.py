"""The content of a replay's report, as Python and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.replay.gates import Condition, Decision, Verdict
from train.replay.summary import Column, Regression, Replay, Value


class Content(NamedTuple):
    """The content of a report.

    Attributes:
      regressions: of each turn, the worst first. available: the metrics.
      verdicts: of the gates. conditions, decisions: of the rollout.
      notes: what a reader should know. settings: everything that decides the numbers.
    """

    replay: Replay
    regressions: Sequence[Regression]
    available: Sequence[str]
    verdicts: Sequence[Verdict]
    conditions: Sequence[Condition]
    decisions: Sequence[Decision]
    notes: Sequence[str]
    settings: Mapping[str, Any]

    def metrics_of(self, column: Column) -> list[str]:
        """The metrics that a column has."""
        rates = {
            "win_rate": column is self.replay.first,
            "win_rate_people": column is not self.replay.people,
        }
        return [name for name in self.available if rates.get(name, name in column.values)]

    def found(self) -> list[str]:
        """The metrics to show: without the kinds of personal data that nobody gives."""
        columns = [*self.replay.checkpoints, self.replay.people]
        return [
            name
            for name in self.available
            if not name.startswith("personal_data.")
            or any(self.replay.value(name, column).value for column in columns)
        ]


def summary(content: Content) -> dict[str, Any]:
    """The content of NAME.json."""
    replay = content.replay

    def values(column: Column, category: str | None = None) -> dict[str, Any]:
        names = content.metrics_of(column)
        return {name: replay.value(name, column, category)._asdict() for name in names}

    return {
        "settings": dict(content.settings),
        "preferred_by": replay.preference,
        "answers": len(replay.turns),
        "checkpoints": {column.name: values(column) for column in replay.checkpoints},
        "people": values(replay.people),
        "against": {
            other.name: {
                "win_rate": replay.win_rate(replay.first, other)._asdict(),
                "differences": {
                    name: replay.difference(name, other)._asdict()
                    for name in content.metrics_of(other)
                    if name in other.values
                },
            }
            for other in replay.others
        },
        "categories": {d.category: values(replay.first, d.category) for d in content.decisions},
        "gates": [
            {"condition": str(v.condition), "category": v.category, **v.value._asdict(),
             "passed": v.passed}
            for v in content.verdicts
        ],
        "rollout": {
            "conditions": list(map(str, content.conditions)),
            "categories": [decision._asdict() for decision in content.decisions],
        },
        "notes": list(content.notes),
    }  # fmt: skip


def records(content: Content) -> Iterator[dict[str, Any]]:
    """Yields the lines of NAME.jsonl, an answer each, in the order of the conversations."""
    replay = content.replay
    columns = [replay.people, *replay.checkpoints]
    for regression in sorted(content.regressions, key=lambda r: r.turn):
        number = regression.turn
        turn = replay.turns[number]
        yield {
            "where": turn.where,
            "category": turn.category,
            "messages": list(turn.messages),
            "answers": {column.name: column.texts[number] for column in columns},
            "values": {column.name: _numbers(column, number) for column in columns},
            "fault": regression.fault,
            "gap": regression.gap,
        }


def _numbers(column: Column, number: int) -> dict[str, float]:
    """The numbers of an answer that it has."""
    return {
        name: float(values[number])
        for name, values in column.values.items()
        if not np.isnan(values[number])
    }


def shown(value: Value, percent: bool) -> str:
    """A value with its interval, `53.1% [47, 59]`."""
    if value.conversations == 0:
        return "–"
    scale, digits, unit = (100, ".1f", "%") if percent else (1, ".3g", "")
    text = f"{value.value * scale:{digits}}{unit}"
    if np.isfinite(value.low):
        text += f" [{value.low * scale:{digits}}, {value.high * scale:{digits}}]"
    return text
