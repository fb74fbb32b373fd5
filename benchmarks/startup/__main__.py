"""The time from `python -m train` to its first step, by part, with and without cached programs.

    python -m benchmarks.startup
    python -m benchmarks.startup --turns=5 --json=startup.json --write
    python -m benchmarks.startup --config=configs/shakespeare.py

Each turn runs the recipe twice, in processes of their own: with an empty compilation cache, and in
another workdir with the cache that the first has filled. A process ends once the metrics of its
first step are there. Prints the medians of seconds by the clock and of the processor, of all
threads, for each part: tracing (with lowering) and compiling (with reading from the cache) as JAX
reports them, wherever they happen, and the rest of each phase that the terminal names. Then the
programs that take longest to compile, and with `--imports` the packages that take longest to
import. `--write` writes the parts into docs/benchmarks.md.
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

from benchmarks import pages

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


def table(results: Mapping[str, Sequence[Diary]]) -> str:
    """A row a part: seconds and processor seconds, and of the seconds tracing and compiling."""
    sides = {name: medians([parts(d) for d in diaries]) for name, diaries in results.items()}
    lines = ["| part | " + " | ".join(f"{name}: s, of the processor; tracing, compiling"
                                      for name in sides) + " |"]  # fmt: skip
    lines.append("|---" * (1 + len(sides)) + "|")
    for name in next(iter(sides.values())):
        cells = []
        for side in sides.values():
            v = side.get(name)
            cells.append("{seconds:.1f}, {processor:.1f}; {trace:.1f}, {compile:.1f}".format(**v)
                         if v else "")  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def programs(diary: Diary, count: int) -> str:
    """The programs that took longest to compile, and the number of all."""
    seconds = [(end - start, name) for kind, name, start, end in diary["events"]
               if kind == "compile"]  # fmt: skip
    lines = [f"  {s:6.2f} s  {name}" for s, name in sorted(seconds, reverse=True)[:count]]
    return "\n".join([f"{len(seconds)} programs, {sum(s for s, _ in seconds):.1f} s:", *lines])


def imports(count: int) -> str:
    """Packages by the seconds of their own modules in `import train.loop`."""
    process = subprocess.run([sys.executable, "-X", "importtime", "-c", "import train.loop"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    own = collections.Counter[str]()
    for line in process.stderr.splitlines():
        if match := re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", line):
            own[match[2].partition(".")[0]] += int(match[1])
    lines = [f"  {us / 1e6:6.2f} s  {name}" for name, us in own.most_common(count)]
    return "\n".join([f"imports, {sum(own.values()) / 1e6:.1f} s in all:", *lines])


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    words = [f"--config={given.config}", *argv[1:]]
    results: dict[str, list[Diary]] = {"empty cache": [], "full cache": []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(given.turns):
            for side, diaries in results.items():
                folder, cache = Path(name, f"{turn}-{side[0]}"), Path(name, f"cache-{turn}")
                diaries.append(run(words, folder, cache))
                ended, used = diaries[-1]["end"]
                seconds = ended - diaries[-1]["spawned"]
                print(f"{side}: {seconds:.1f} s, {used:.1f} of the processor", file=sys.stderr)
    text = table(results)
    compiled = programs(results["empty cache"][-1], 12)
    print(text, compiled, sep="\n")
    if given.imports:
        print(imports(15))
    if given.json:
        Path(given.json).write_text(json.dumps(results) + "\n")
    if given.write:
        head = f"`{' '.join(words)}`, {pages.machine()}. Medians of {given.turns} turns."
        largest = "\n".join(compiled.splitlines()[:5])
        pages.write("benchmarks.startup", f"{head}\n\n{text}\n\n```text\n{largest}\n```")


if __name__ == "__main__":
    flags.DEFINE_string("config", "configs/pretrain.py:smoke", "A recipe.")
    flags.DEFINE_integer("turns", 3, "Turns, each with an empty and with a full cache.", 1)
    flags.DEFINE_bool("imports", False, "Print the packages that take longest to import too.")
    flags.DEFINE_string("json", "", "Write the diaries here as JSON.")
    flags.DEFINE_bool("write", False, "Write the table into docs/benchmarks.md.")
    app.run(main)
