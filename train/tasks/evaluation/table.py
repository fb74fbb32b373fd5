"""Results of benchmarks on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from printable import escaped
from train.tasks.base import Estimate
from train.tasks.evaluation.benchmark import Result
from train.tasks.evaluation.pairs import Comparison
from train.terminal.console import console, duration

LARGE = 1e5  # from which on a value has an exponent
MOST_GROUPS = 16  # that are shown; results.json has all
NARROW = 80  # columns below which less is shown


def number(value: float, stderr: float = math.nan) -> str:
    """A value with the decimals that its standard error has at two digits; with four digits
    without one."""
    if not math.isfinite(stderr) or stderr <= 0 or abs(value) >= LARGE:
        return f"{value:.4g}"
    return f"{value:.{max(1 - math.floor(math.log10(stderr)), 0)}f}"


def estimate(value: Estimate) -> str:
    """`0.512 ± 0.035`."""
    if not math.isfinite(value.stderr):
        return number(value.value)
    shown = number(value.stderr, value.stderr) if value.value < LARGE else f"{value.stderr:.2g}"
    return f"{number(value.value, value.stderr)} ± {shown}"


def _table(*columns: tuple[str, str]) -> Table:
    """A table with (heading, justification) columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading, justify in columns:
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def results(rows: Sequence[Result], suites: Mapping[str, Estimate]) -> Table:
    """The metrics of benchmarks, a row each."""
    wide = console.width >= NARROW
    heads = [("task", "left"), ("shots", "right"), ("metric", "left"), ("value ± stderr", "left")]
    heads += [("items", "right"), ("cut", "right")]
    table = _table(*heads, *([("time", "right")] if wide else []))
    for row in rows:
        ends = [f"{row.items:,}", f"{row.cut:,}", *([duration(row.seconds)] if wide else [])]
        (metric, value), *others = row.metrics.items()
        table.add_row(
            escaped(row.task.name), str(row.shots), escaped(metric),
            Text(estimate(value), "bold"), *ends,
        )  # fmt: skip
        if len(row.by_group) <= MOST_GROUPS:
            for name, value in row.by_group.items():
                table.add_row("", "", Text(f"  {escaped(name)}", "dim"), estimate(value))
        for metric, value in others:
            table.add_row("", "", escaped(metric), estimate(value))
    for name, value in suites.items():
        table.add_row(escaped(name), "", "mean", Text(estimate(value), "bold"))
    return table


def comparisons(rows: Sequence[Comparison]) -> Iterator[Text]:
    """Lines with the differences between two models: a benchmark, then each of its metrics with
    both values. A narrow terminal shows no intervals, and shortens names."""
    intervals, before = console.width >= NARROW, ""
    heads = ["", "this", "other", "difference" if intervals else "diff", "p", "verdict"]
    cells = [_compared(row, intervals) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    widths[0] = min(widths[0], max(console.width - sum(widths[1:]) - 2 * len(widths[1:]), 4))
    yield _aligned(heads, widths, "dim")
    for row, texts in zip(rows, cells, strict=True):
        benchmark = f"{escaped(row.task)} {row.shots}-shot"
        if benchmark != before:
            yield Text(_fitted(benchmark, console.width))
        yield _aligned(texts, widths)
        before = benchmark


def _compared(row: Comparison, interval: bool) -> list[str]:
    """The cells of a comparison."""
    test, spread = row.paired, (row.paired.high - row.paired.low) / 4
    difference = _signed(test.difference, spread)
    if interval and math.isfinite(spread):
        difference += f" [{_signed(test.low, spread)}, {_signed(test.high, spread)}]"
    same = row.item == row.metric  # so that all three numbers have the same decimals
    values = [number(x, spread if same else math.nan) for x in (row.value, row.other)]
    name = row.metric if same else f"{row.metric} (difference of {row.item})"
    return [f"  {escaped(name)}", *values, difference, _p(test.p), row.verdict]


def _aligned(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Text:
    """A line of `comparisons`: a name, numbers, and a verdict in its colour."""
    name, *numbers, verdict = map(_fitted, cells, widths)
    padded = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
    colour = {"better": "green", "worse": "yellow"}.get(verdict, "")
    line = Text("  ".join([set_cell_size(name, widths[0]), *padded, ""]), style)
    return line.append(verdict, colour)


def _fitted(text: str, room: int) -> str:
    return text if cell_len(text) <= room else set_cell_size(text, room - 1).rstrip() + "…"


def _signed(value: float, spread: float) -> str:
    text = number(value, spread)
    return text.replace("-", "−") if value < 0 else f"+{text}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def tasks(rows: Iterable[Any]) -> Table:
    """The registered benchmarks and suites."""
    table = _table(("task", "left"), ("shots", "right"), ("what it is", "left"))
    for row in rows:
        shots = str(row.shots) if hasattr(row, "shots") else ""
        table.add_row(row.name, shots, escaped(row.description))
    return table


def samples(label: str, records: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Lines with right and wrong answers, each clipped to the terminal's width."""
    if records:
        yield Text(escaped(label), "bold")
    for record in records:
        mark, style = ("right", "green") if record["right"] else ("wrong", "yellow")
        yield Text.assemble((f"  {mark}  ", style), _clipped(record["prompt"], 9, end=True))
        answer = Text("         → ")
        reference = record.get("reference", "")
        if reference and not record["right"]:
            most = max((console.width - 11) // 2, 10)
            wanted = f"  (right: {_clipped(reference, console.width - most + 12)})"
            shown = _clipped(record["response"] or "(nothing)", 11 + cell_len(wanted))
            answer.append(shown).append(wanted, "dim")
        else:
            answer.append(_clipped(record["response"] or "(nothing)", 11))
        yield answer


def _clipped(text: str, taken: int, end: bool = False) -> str:
    """A text on one line, in the columns that are not taken; with `end`, its end."""
    text, room = escaped(" ".join(str(text).split())), max(console.width - taken, 10)
    if cell_len(text) <= room or not end:
        return _fitted(text, room)
    while cell_len(text) > room - 1:
        text = text[max(cell_len(text) - room + 1, 1) // 2 or 1 :]
    return f"…{text}"
