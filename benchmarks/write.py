"""Writes the results kept in docs/benchmarks into docs/benchmarks.md.

    python -m benchmarks.write

A benchmark's `--json=docs/benchmarks/NAME.json` keeps a result (benchmarks/results.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app

from benchmarks import pages, results
from data.atomic import write_atomically

PAGE = pages.DOCS / "benchmarks.md"


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        write_atomically(PAGE, results.written(PAGE.read_text()))
    except ValueError as error:
        sys.exit(f"error: {PAGE.name}: {error}")


if __name__ == "__main__":
    app.run(main)
