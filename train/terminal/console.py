"""The console of this process, and texts that fit its width."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable

from rich.cells import cell_len

from printable import SafeConsole, escaped
from train.terminal.text import wrap

console = SafeConsole()
SEPARATOR = " · "
UNLIMITED = 10_000  # columns of a file or a pipe


def is_live() -> bool:
    """Whether the console is a terminal on which a line can be drawn again."""
    return console.is_terminal and not console.is_dumb_terminal


def columns() -> int:
    """The width of the terminal; without one, lines have no limit."""
    return console.width if is_live() else UNLIMITED


def print_error(text: str) -> None:
    """Prints a line on standard error; on a terminal it is broken between words."""
    text = escaped(text)
    if sys.stderr.isatty():
        text = "\n".join(wrap(text, shutil.get_terminal_size().columns))
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`H:MM:SS`, or `M:SS` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def lines_of(parts: Iterable[str], width: int, indent: str = "    ") -> list[str]:
    """Lines of at most `width` columns with all `parts`, those after the first line indented; a
    part is broken, between words, only where it is wider than a line."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + len(SEPARATOR) + cell_len(part) <= width:
            lines[-1] += SEPARATOR + part
        else:
            lines += wrap(indent * bool(lines) + part, width, rest=len(indent))
    return lines
