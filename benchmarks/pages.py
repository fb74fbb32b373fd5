"""The parts of Markdown pages that commands write, between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.atomic import write_atomically

DOCS = Path(__file__).parents[1] / "docs"


def replaced(text: str, name: str, content: str) -> str:
    """A page with other content between the marks of a part.

    Raises:
      ValueError: the page has no such marks.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {start} and {end}, between which to write")
    return f"{before}{start}\n\n{content}\n\n{end}{after}"


def write(page: str | os.PathLike, name: str, content: str) -> None:
    """Replaces a part of a page's file.

    Raises:
      ValueError: the page has no such part.
    """
    path = Path(page)
    try:
        text = replaced(path.read_text(), name, content)
    except ValueError as error:
        raise ValueError(f"{page}: {error}") from None
    write_atomically(path, text)


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown."""
    return "\n".join([row(columns), "|---" * len(columns) + "|", *map(row, rows)])
