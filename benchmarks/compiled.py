"""Tables of reports of the TPU compiler: each step compiled in its own process, kept as JSON.

Needs libtpu (`pip install 'jax[tpu]'`), no TPU. A step takes 1 to 5 minutes on two cores.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from absl import flags

from benchmarks.pages import DOCS


def define_flags() -> None:
    flags.DEFINE_multi_string("only", [], "Name of a step to compile; may be repeated.")
    flags.DEFINE_bool("fresh", False, "Compile again what is there.")


def compile_one(arguments: Sequence[str]) -> dict:
    """The report of `python -m tpu.fit`, with `made`, the date and the versions; with `error` where
    a run would not start.

    Raises:
      RuntimeError: libtpu did not compile at all, or tpu.fit broke.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "report.json")
        command = [sys.executable, "-m", "tpu.fit", *arguments, f"--json={out}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if os.path.exists(out):
            return json.loads(Path(out).read_text()) | {"made": _made()}
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if not errors or "libtpu" in errors[-1]:
            raise RuntimeError(done.stderr[-4000:])
        return {"fits": False, "error": errors[-1].removeprefix("error: ")}


def _made():
    versions = {name: metadata.version(name) for name in ("jax", "libtpu")}
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **versions}


def write(
    table: str, runs: Mapping[str, list[str]], row: Callable, document: Callable
) -> dict[str, dict]:
    """Compiles the steps that docs/TABLE.json lacks, or those that the flags name, and writes that
    file and docs/TABLE.md; returns {name: report} of all.

    Args:
      runs: {name: arguments of tpu.fit}. row: (name, report) -> a line; document: {name: report}
        -> the page.
    """
    kept = DOCS / f"{table}.json"
    reports = json.loads(kept.read_text()) if kept.exists() else {}
    if unknown := set(flags.FLAGS.only) - set(runs):
        sys.exit(f"error: --only={unknown.pop()}: the steps are {', '.join(runs)}")
    for name in flags.FLAGS.only or runs:
        if name not in reports or flags.FLAGS.fresh:
            print(f"compiling {name} …", flush=True)
            reports[name] = compile_one(runs[name])
            print(row(name, reports[name]), flush=True)
        known = {n: reports[n] for n in runs if n in reports}
        kept.write_text(json.dumps(known, indent=1) + "\n")
        (DOCS / f"{table}.md").write_text(document(known))
    return {n: reports[n] for n in runs if n in reports}
