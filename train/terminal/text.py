"""Text for the terminal: wrapped at words, to the terminal's width."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap

MOST_COLUMNS = 100  # longer lines are hard to read


def columns() -> int:
    """The width at which to wrap text: that of the terminal, if there is one."""
    return max(30, min(shutil.get_terminal_size().columns, MOST_COLUMNS))


def wrap(text: str, width: int, first: int = 0, rest: int = 0) -> list[str]:
    """The lines of a text; no word is broken.

    Args:
      first: columns by which the first line is indented. rest: those of the other lines.
    """
    return textwrap.wrap(
        text, width, initial_indent=" " * first, subsequent_indent=" " * rest,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def formatted(doc: str, width: int) -> list[str]:
    """A docstring wrapped to a width; its commands stay such that they can be pasted."""
    doc = re.sub(r"\\\n", "", inspect.cleandoc(doc))
    lines: list[str] = []
    for paragraph in doc.split("\n\n"):
        if paragraph.startswith("    "):
            for line in paragraph.splitlines():
                command = line.lstrip().startswith("python ")
                lines += _command(" ".join(line.split()), width) if command else [line]
        else:
            for item in re.split(r"\n(?=[A-Z]\w+: )", paragraph):
                lines += wrap(item, width)
        lines.append("")
    return lines[:-1]


def _command(line: str, width: int) -> list[str]:
    """A command on as many lines as it needs, continued with backslashes."""
    words = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", line)
    lines = [f"    {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"        {word}")
        else:
            lines[-1] += f" {word}"
    return lines
