"""The cost of what keeps a run safe, and the place of measurements in docs/reliability.md."""

from __future__ import annotations

from pathlib import Path

from data.atomic import write_atomically


def write(page: str, name: str, content: str) -> None:
    """Replaces the text between a page's marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
      ValueError: the page has no such marks.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = Path(page).read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no {start} and {end}, between which to write")
    write_atomically(Path(page), f"{before}{start}\n\n{content}\n\n{end}{after}")
