"""Confusion matrices on the terminal."""

from __future__ import annotations

from rich.cells import set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from printable import escaped
from train.tasks.evaluation.benchmark import Result
from train.tasks.support.classification import confusion
from train.terminal.console import console

CELL, MOST_NAME = 5, 28  # columns of a count, and of a label
MOST_PAIRS = 8  # that are confused most often


def show(result: Result) -> RenderableType:
    """The confusion matrix of a classification where the terminal has room for it; else the pairs
    that are confused most often."""
    labels, counts = confusion(result.task.labels, result.outcomes)
    title = Text(escaped(result.label), "bold")
    name = min(max(map(len, labels)) + 3, MOST_NAME)
    if name + 2 + (CELL + 1) * len(labels) > console.width:
        return Group(title, *_pairs(labels, counts), Text(""))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", width=name, no_wrap=True)
    for number in range(len(labels)):
        table.add_column(_number(labels, number), justify="right", width=CELL)
    for number, row in enumerate(counts):
        cells = [
            Text(str(count), "bold green" if column == number else "yellow" if count else "dim")
            for column, count in enumerate(row)
        ]
        label = f"{_number(labels, number)} {escaped(labels[number])}"
        table.add_row(set_cell_size(label, name).rstrip(), *cells)
    note = Text("  rows: the right label; columns: the answer's, by the number of its row", "dim")
    return Group(title, table, note, Text(""))


def _number(labels: list[str], number: int) -> str:
    return "none" if labels[number] == "(none)" else str(number + 1)


def _pairs(labels: list[str], counts: list[list[int]]) -> list[Text]:
    """Lines with the most frequent confusions."""
    wrong = sorted(
        (-count, labels[row], labels[column])
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
        if count and row != column
    )
    lines = [
        Text(f"  {-count:5,}  {escaped(right)} → {escaped(said)}")
        for count, right, said in wrong[:MOST_PAIRS]
    ]
    if more := sum(-count for count, *_ in wrong[MOST_PAIRS:]):
        lines.append(Text(f"  {more:5,}  others; confusion.csv has all", "dim"))
    return lines or [Text("  no label is confused with another")]
