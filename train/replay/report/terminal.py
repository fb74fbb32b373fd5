"""A replay on the terminal."""

from __future__ import annotations

from collections.abc import Collection

from etils import epath
from rich.table import Table
from rich.text import Text

from printable import escaped
from train.replay.measures import METRICS
from train.replay.report.content import Content, shown
from train.terminal.console import console

WIDE = 100  # columns from which on the people's values are shown


def show(content: Content, path: epath.Path, printed: Collection[str] = ()) -> None:
    """Prints the measures, the gates, who answers what, and where the page is.

    Args:
      printed: notes that the terminal shows already.
    """
    console.print()
    console.print(_measures(content))
    console.print()
    for verdict in content.verdicts:
        style = "green" if verdict.passed else "yellow"
        word = "passed" if verdict.passed else "failed"
        console.print(Text(f"gate {word}: {escaped(str(verdict))}", style))
    if not content.conditions:
        console.print(f"All categories stay with people: {content.decisions[0].reason}")
    else:
        console.print(_decisions(content))
    for note in (note for note in content.notes if note not in printed):
        console.print(f"  {escaped(note)}")
    console.print(f"Report: {path}")


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(escaped(head), overflow="fold")
    return table


def _measures(content: Content) -> Table:
    """A row a metric."""
    replay = content.replay
    columns = list(replay.checkpoints) + [replay.people] * (console.width >= WIDE)
    table = _table("", *(column.name for column in columns))
    for name in content.found():
        metric = METRICS[name]
        values = [
            shown(replay.value(name, column), metric.percent)
            if name in content.metrics_of(column) else ""
            for column in columns
        ]  # fmt: skip
        table.add_row(name, *values)
    return table


def _decisions(content: Content) -> Table:
    table = _table("category", "conversations", "who answers", "why")
    for decision in content.decisions:
        who = Text("model", "green") if decision.answers else Text("people", "yellow")
        name, count = escaped(decision.category or "(none)"), f"{decision.conversations:,}"
        table.add_row(name, count, who, escaped(decision.reason))
    return table
