"""The files of a replay: NAME.html, NAME.json with its numbers, NAME.jsonl with its answers."""

from __future__ import annotations

from etils import epath

from data.atomic import write_atomically
from train.replay.report import page
from train.replay.report.content import Content, records, summary
from train.runtime import outputs
from train.tasks.evaluation import results


def write(path: epath.Path, content: Content) -> None:
    """Writes the files of a replay. They hold no times, so that a replay that was interrupted and
    resumed writes the same bytes.

    Args:
      path: of the page.
    """
    outputs.make_folder(path.parent, "out")
    results.write(path.with_suffix(".json"), summary(content))
    results.write_lines(path.with_suffix(".jsonl"), records(content))
    write_atomically(path, page.page(path.stem, content))
