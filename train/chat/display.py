"""Text on a terminal as it is written: wrapped between words, in one column or two."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TextIO

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from printable import escaped

CLEAR = "\r\x1b[K"  # of the line that the cursor is in
LEAST_WIDTH = 20
SIDE_BY_SIDE = 100  # columns from which two answers are beside each other
_console = Console(file=io.StringIO(), color_system=None)


def wrap(text: str, width: int) -> list[str]:
    """The lines of a text, at most `width` cells each; longer words are broken."""
    if not text:
        return [""]
    lines = Text(text).wrap(_console, width, tab_size=4, overflow="fold")
    return [line.plain for line in lines]


class _Tail:
    """The last line of a text that grows.

    Attributes:
      line: without spaces at its end, which belong to the next word.
    """

    def __init__(self, width: int, line: str = ""):
        self._width, self.line, self._spaces = width, line, ""

    def add(self, text: str) -> list[str]:
        """The lines that take the place of the last one."""
        text = self._spaces + escaped(text)
        kept = text.rstrip(" ")
        self._spaces = text[len(kept) :]
        lines = wrap(self.line + kept, self._width)
        self.line = lines[-1]
        return lines


class Column:
    """A text that grows on a terminal.

    Args:
      out: the terminal. width: of its lines. label, style: what the first line begins with, and an
        ANSI style for it.
    """

    def __init__(self, out: TextIO, width: int, label: str = "", style: str = ""):
        self._out, self._tail = out, _Tail(width, label)
        self._label = label  # of the line that the cursor is in
        self._styled = f"\x1b[{style}m{label}\x1b[0m" if style else label
        self._put(self._styled)

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def write(self, text: str) -> None:
        before = self._tail.line
        first, *lines = self._tail.add(text)
        if first.startswith(before):
            change = first[len(before) :]
        elif first.startswith(self._label):  # the last word moves to the next line
            change = CLEAR + self._styled + first[len(self._label) :]
        else:
            change = CLEAR + first
        if lines:
            self._label = self._styled = ""
        self._put("".join([change, *("\n" + line for line in lines)]))

    def close(self) -> None:
        self._put("\n")


class Columns:
    """Two texts that grow side by side, row by row."""

    BAR = " │ "

    def __init__(self, out: TextIO, width: int, names: Sequence[str]):
        self._out, self._width = out, (width - len(self.BAR)) // 2
        self._tails = [_Tail(self._width) for _ in names]
        # The lines of each side that are not on the terminal for good; the last may still grow.
        self._rows = [[""] for _ in names]
        self._grows = [True for _ in names]
        self._out.write(f"\x1b[2m{self._row(names)}\x1b[0m\n")

    def _row(self, texts: Sequence[str]) -> str:
        return self.BAR.join(set_cell_size(text, self._width) for text in texts).rstrip()

    def write(self, side: int, text: str) -> None:
        self._rows[side][-1:] = self._tails[side].add(text)
        self._draw()

    def finish(self, side: int) -> None:
        self._grows[side] = False
        self._draw()

    def _draw(self) -> None:
        """Writes the rows that are complete, and the first that is not over the same row before."""
        text = CLEAR
        while any(self._rows):
            text += self._row([rows[0] if rows else "" for rows in self._rows])
            if any(len(r) < 2 and g for r, g in zip(self._rows, self._grows, strict=True)):
                break
            text += "\n"
            self._rows = [rows[1:] for rows in self._rows]
        self._out.write(text)
        self._out.flush()
