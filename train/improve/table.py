"""The rounds on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from train.improve.rounds import share
from train.terminal.console import console

WIDE = 100  # columns from which all is shown


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """Prints a row a round. What people prefer is of the round's policy, and so is known when the
    next round's questions are answered."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    wide = console.width >= WIDE
    heads = ["round", "answers", *["agreement"] * wide, "reward right", "win rate",
             "people prefer", *["KL"] * wide]  # fmt: skip
    for head in heads:
        table.add_column(head, overflow="fold")
    people = [*(record.get("people") for record in records[1:]), None]
    for record, preferred in zip(records, people, strict=True):
        cells = [str(record["round"]), str(record["answers"])]
        cells += [_number(record["alpha"])] * wide
        for value in (record.get("reward_accuracy"), record.get("win_rate"), preferred):
            cells.append(_share(value, wide))
        cells += [_number(record.get("kl"))] * wide
        table.add_row(*cells)
    console.print()
    console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _share(value: dict[str, float] | None, wide: bool) -> str:
    """A share with its interval, on a narrow terminal below it."""
    if value is None or value["value"] is None:
        return "–"
    return share(value) if wide else share(value).replace(" [", "\n[")
