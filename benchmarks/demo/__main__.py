"""The demo on several seeds beside its promise: bounds on its report's numbers.

    make demo-check
    python -m benchmarks.demo --workdirs=runs/demo-0,runs/demo-1,runs/demo-2

Prints the numbers of finished demos, then each that falls short of the promise, and exits with 1 if
any does; `make demo-check` trains the three first, 22 minutes on two cores. With `--write` the
figures are kept in docs/demo.json and written into docs/benchmarks.md, README.md and the recipe.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.demo import documents, promise


def machine() -> str:
    """The processor, its cores and the Python, in words."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE) or [platform.processor()]
    return f"{len(names)} cores of {names[0]}, Python {platform.python_version()}"


def read(workdirs: Sequence[str], busy: bool) -> dict[str, Any]:
    """The content of docs/demo.json, from the reports of finished chains.

    Raises:
      ValueError: a chain has no report, or two have the same seed.
    """
    reports, date = {}, datetime.date.min
    for workdir in map(Path, workdirs):
        path = workdir / "report.json"
        if not path.exists():
            raise ValueError(f"{workdir} holds no report.json; run the demo there first: "
                             f"make demo SEED=N DEMO={workdir}")  # fmt: skip
        seed = str(json.loads((workdir / "pretrain" / "config.json").read_text())["seed"])
        if seed in reports:
            raise ValueError(f"{workdir} is of seed {seed}, as another of --workdirs is")
        reports[seed] = json.loads(path.read_text())
        date = max(date, datetime.date.fromtimestamp(path.stat().st_mtime))
    git = ["git", "-C", str(documents.ROOT), "rev-parse", "--short=10", "HEAD"]
    return {
        "date": date.isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown",
        "machine": machine(),
        "note": "Other work shared the machine, so the seconds are more than those of quiet cores."
        if busy
        else "Nothing else ran.",
        "reports": reports,
    }


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        kept = read(flags.FLAGS.workdirs, flags.FLAGS.busy)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(documents.table(kept))
    if flags.FLAGS.write:
        documents.write(kept)
    lines = [
        f"seed {seed}: {line}"
        for seed, report in kept["reports"].items()
        for line in promise.shortfalls(promise.measure(report), flags.FLAGS.busy)
    ]
    print("\n" + ("\n".join(lines) or "The demo keeps its promise."))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    flags.DEFINE_list(
        "workdirs",
        ["runs/demo-0", "runs/demo-1", "runs/demo-2"],
        "Finished demos, each of another seed.",
    )
    flags.DEFINE_bool("busy", False, "Other work shared the machine: do not bound the time.")
    flags.DEFINE_bool("write", False, "Write docs/demo.json and the pages that show its figures.")
    app.run(main)
