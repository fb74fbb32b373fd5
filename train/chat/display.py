"""Text on a terminal as it is written: wrapped between words, in one column or two."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

# Characters that change the direction of the text after them.
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
CLEAR = "\r\x1b[K"  # of the line that the cursor is in
LEAST_WIDTH = 20
SIDE_BY_SIDE = 100  # columns from which two answers are beside each other
_console = Console(file=io.StringIO(), color_system=None)


def escaped(text: str) -> str:
    """Text whose control characters, other than line breaks and tabs, are written as `\\x1b`: a
    model must not move the cursor."""

    def escape(c: str) -> str:
        hidden = unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"
        return repr(c)[1:-1] if hidden or ord(c) in _DIRECTIONS else c

    return text if text.isascii() and text.isprintable() else "".join(map(escape, text))


def wrap(text: str, width: int) -> list[str]:
    """The lines of a text, at most `width` cells each; longer words are broken."""
    if not text:
        return [""]
    lines = Text(text).wrap(_console, width, tab_size=4, overflow="fold")
    return [line.plain for line in lines]


class Column:
    """A text that grows on a terminal.

    Args:
      out: the terminal. width: of its lines. label, style: what the first line begins with, and an
        ANSI style for it.
    """

    def __init__(self, out: TextIO, width: int, label: str = "", style: str = ""):
        self._out, self._width, self._label = out, max(width, LEAST_WIDTH), label
        self._styled = f"\x1b[{style}m{label}\x1b[0m" if style else label
        self._line = label  # the line that the cursor is in
        self._is_first = True
        self._put(self._styled)

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def write(self, text: str) -> None:
        before = self._line
        first, *lines = wrap(before + escaped(text), self._width)
        if first.startswith(before):
            change = first[len(before) :]
        else:  # the last word moves to the next line
            styled = self._is_first and first.startswith(self._label)
            label = self._label if styled else ""
            change = CLEAR + (self._styled if styled else "") + first[len(label) :]
        self._put("".join([change, *("\n" + line for line in lines)]))
        self._line = [first, *lines][-1]
        self._is_first = self._is_first and not lines

    def close(self) -> None:
        self._put("\n")


class Columns:
    """Two texts that grow side by side, row by row."""

    BAR = " │ "

    def __init__(self, out: TextIO, width: int, names: Sequence[str]):
        self._out, self._width = out, (width - len(self.BAR)) // 2
        # The lines of each side that are not on the terminal for good; the last may still grow.
        self._rows = [[""], [""]]
        self._grows = [True, True]
        self._out.write(f"\x1b[2m{self._row(names)}\x1b[0m\n")

    def _row(self, texts: Sequence[str]) -> str:
        return self.BAR.join(set_cell_size(text, self._width) for text in texts).rstrip()

    def write(self, side: int, text: str) -> None:
        rows = self._rows[side]
        rows += wrap(rows.pop() + escaped(text), self._width)
        self._draw()

    def finish(self, side: int) -> None:
        self._grows[side] = False
        self._draw()

    def _draw(self) -> None:
        """Writes the rows that are complete, and the first that is not over the same row before."""
        text = CLEAR
        while any(self._rows):
            row = self._row([rows[0] if rows else "" for rows in self._rows])
            text += row
            if any(len(r) < 2 and g for r, g in zip(self._rows, self._grows, strict=True)):
                break
            text += "\n"
            self._rows = [rows[1:] for rows in self._rows]
        self._out.write(text)
        self._out.flush()
