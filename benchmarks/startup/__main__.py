"""The time from `python -m train` to its first step, by part, with and without cached programs.

    python -m benchmarks.startup
    python -m benchmarks.startup --rounds=5 --json=docs/benchmarks/startup.json
    python -m benchmarks.startup --recipe=configs/shakespeare.py

Each round runs the recipe twice, in processes of their own: with an empty compilation cache, and in
another workdir with the cache that the first has filled. A process ends once the metrics of its
first step are there. Shows the medians of seconds by the clock and of the processor, of all
threads, for each part: tracing (with lowering) and compiling (with reading from the cache) as JAX
reports them, wherever they happen, within the phases that the terminal names. Then the programs
that take longest to compile, and with `--imports` the packages that take longest to import.
"""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from absl import app, flags

from benchmarks import results

Diary = Mapping[str, Any]


def run(words: Sequence[str], folder: Path, cache: Path) -> Diary:
    """The diary of a process (child.py) in a new folder.

    Raises:
      RuntimeError: it failed.
    """
    folder.mkdir(parents=True)
    out = folder / "diary.json"
    settings = [*words, f"--workdir={folder / 'run'}", "--config.log_every=1"]
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.startup.child", repr(time.time()), out, *settings],
        env=environment | {"XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True,
    )  # fmt: skip
    if not out.exists():
        raise RuntimeError(f"{' '.join(settings)} ended with {process.returncode}:\n"
                           f"{process.stdout[-1000:]}{process.stderr[-2000:]}")  # fmt: skip
    return json.loads(out.read_text())


def _length(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def parts(diary: Diary) -> dict[str, dict[str, float]]:
    """{part: {`seconds`, `processor`, of the seconds `trace` and `compile`}}, in order; the last is
    the whole."""
    begun, (end, used) = diary["spawned"], diary["end"]
    spans = [["Python, imports, flags", begun, diary["phases"][0][1], 0.0, diary["phases"][0][3]]]
    names = collections.Counter[str]()
    for name, start, stop, before, after in diary["phases"]:
        names[name] += 1
        spans.append([name + (f", {names[name]}" if names[name] > 1 else ""), start, stop, before,
                      after])  # fmt: skip
    out = {}

    def part(start, stop, before, after):
        values = {"seconds": stop - start, "processor": after - before}
        for kind in ("trace", "compile"):
            inside = [(max(a, start), min(b, stop)) for k, _, a, b in diary["events"]
                      if k == kind and b > start and a < stop]  # fmt: skip
            values[kind] = _length(inside)
        return values

    for name, *span in spans:
        out[name] = part(*span)
    whole = part(begun, end, 0.0, used)
    out["between these"] = {
        key: value - sum(p[key] for p in out.values()) for key, value in whole.items()
    }
    return out | {"all": whole}


def medians(turns: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: median(t[name][key] for t in turns if name in t) for key in values}
        for name, values in turns[0].items()
    }


def rows(sides: Mapping[str, Sequence[Diary]]) -> list[list[str]]:
    """The cells of each part: seconds and processor seconds, and of the seconds tracing and
    compiling."""
    values = {name: medians([parts(d) for d in diaries]) for name, diaries in sides.items()}
    form = "{seconds:.1f}, {processor:.1f}; {trace:.1f}, {compile:.1f}"
    return [
        [name, *(form.format(**side[name]) if name in side else "" for side in values.values())]
        for name in next(iter(values.values()))
    ]


def programs(diary: Diary, count: int) -> list[list[str]]:
    """The programs that took longest to compile, with their seconds, and all."""
    seconds = [(end - start, name) for kind, name, start, end in diary["events"]
               if kind == "compile"]  # fmt: skip
    longest = sorted(seconds, reverse=True)[:count]
    return [
        *([name, f"{s:.2f}"] for s, name in longest),
        [f"all {len(seconds)}", f"{sum(s for s, _ in seconds):.2f}"],
    ]


def imports(count: int) -> list[list[str]]:
    """Packages with the seconds of their own modules in `import train.loop`."""
    process = subprocess.run([sys.executable, "-X", "importtime", "-c", "import train.loop"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    own = collections.Counter[str]()
    for line in process.stderr.splitlines():
        if match := re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", line):
            own[match[2].partition(".")[0]] += int(match[1])
    longest = [[name, f"{us / 1e6:.2f}"] for name, us in own.most_common(count)]
    return [*longest, ["all", f"{sum(own.values()) / 1e6:.2f}"]]


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    words = [f"--config={given.recipe}"]
    sides: dict[str, list[Diary]] = {"empty cache": [], "full cache": []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(given.rounds):
            for side, diaries in sides.items():
                folder, cache = Path(name, f"{turn}-{side[0]}"), Path(name, f"cache-{turn}")
                diaries.append(run(words, folder, cache))
                ended, used = diaries[-1]["end"]
                seconds = ended - diaries[-1]["spawned"]
                print(f"{side}: {seconds:.1f} s, {used:.1f} of the processor", file=sys.stderr)
    columns = ["part", *(f"{name}: s, of the processor; tracing, compiling" for name in sides)]
    tables = [
        results.Table(columns, rows(sides)),
        results.Table(["program", "s to compile"], programs(sides["empty cache"][-1], 6)),
    ]
    if given.imports:
        tables.append(results.Table(["package", "s to import"], imports(12)))
    results.report(results.Result("startup", tables, sides, results.given()))


if __name__ == "__main__":
    flags.DEFINE_string("recipe", "configs/pretrain.py:smoke", "A recipe.")
    flags.DEFINE_integer("rounds", 3, "Rounds, each with an empty and with a full cache.", 1)
    flags.DEFINE_bool("imports", False, "Show the packages that take longest to import too.")
    results.define_flags()
    app.run(main)
