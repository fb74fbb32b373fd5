"""The demo on several seeds beside its promise: bounds on its report's numbers.

    make demo-check
    python -m benchmarks.demo --workdirs=runs/demo-0,runs/demo-1,runs/demo-2

Prints the numbers of finished demos, then each that falls short of the promise, and exits with 1 if
any does; `make demo-check` trains the three first, 22 minutes on two cores. With `--write` the
figures are kept in docs/demo.json and written into docs/benchmarks.md, README.md and the recipe.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.demo import documents, promise
from train.objectives.reporting import null_as_nan


def read(workdirs: Sequence[str], busy: Sequence[str]) -> dict[str, Any]:
    """The content of docs/demo.json, from the reports of finished chains.

    Raises:
      ValueError: a chain has no report, or one without a stage, or two have the same seed.
    """
    reports, made = {}, []
    for workdir in map(Path, workdirs):
        path = workdir / "report.json"
        if not path.exists():
            raise ValueError(
                f"{workdir} holds no report.json; run the demo there first: "
                f"make demo SEED=N DEMO={workdir}"
            )
        report = null_as_nan(json.loads(path.read_text()))
        if missing := {*documents.SHOWN, "made"} - report.keys():
            raise ValueError(
                f"{path} has no {min(missing)}; remove it, and the demo writes it again: "
                f"make demo SEED=N DEMO={workdir}"
            )
        seed = str(json.loads((workdir / "ppo" / "config.json").read_text())["seed"])
        if seed in reports:
            raise ValueError(f"{workdir} is of seed {seed}, as another of --workdirs is")
        made.append(report["made"]["ppo"])
        reports[seed] = {name: report[name] for name in documents.SHOWN}

    def each(text: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(sorted({text(values) for values in made}))

    return {
        "date": each(lambda m: m["date"][:10]),
        "commit": each(lambda m: re.sub(r"(?<=\w{10})\w+", "", m.get("commit", "unknown"))),
        "machine": each(
            lambda m: (
                f"{m['cores']} cores of {m['processor']} (Python {m['python']}, JAX {m['jax']})"
            )
        ),
        "busy": [seed for seed in reports if seed in busy],
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
    lines = promise.all_shortfalls(kept)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    flags.DEFINE_list(
        "workdirs",
        ["runs/demo-0", "runs/demo-1", "runs/demo-2"],
        "Finished demos, each of another seed.",
    )
    flags.DEFINE_list("busy", [], "Seeds beside which other work ran: their time is not bounded.")
    flags.DEFINE_bool("write", False, "Write docs/demo.json and the pages that show its figures.")
    app.run(main)
