"""The race: `python -m train` and nanoGPT's loop in PyTorch, each in its own process, turn about.

A turn is a whole process. Of a turn that measures speed, the time between its first record of
training metrics and its last counts, so neither start-up nor compilation does; both sides write a
record after the same steps, for which they await their computation. Processor seconds are those of
all threads in that time, which other work on the machine changes less. The order is reversed at
every turn, and ratios are taken within a turn. A first process of each side, which fills caches of
files and of compiled programs, is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

TORCH_SIDE = Path(__file__).with_name("torch_side.py")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Shape:
    """A shape of nanoGPT's: `size` is the row of model/sizes.py with as many weights. A turn takes
    `steps`, with a record every `log_every`."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    size: str
    steps: int
    log_every: int

    def __str__(self):
        return f"{self.layers}×{self.width}, {self.batch} rows of {self.context}"


SHAPES = {
    "4x128": Shape(4, 4, 128, 64, 12, "1m", steps=420, log_every=20),
    "6x384": Shape(6, 6, 384, 256, 16, "10m", steps=24, log_every=4),
}


@dataclass(frozen=True)
class Texts:
    """The files that both sides read: a training text and a held-out one."""

    train: str
    heldout: str


@dataclass(frozen=True)
class Turn:
    """Measurements of a process.

    Attributes:
      seconds, processor_seconds: from its first record of training metrics to its last; tokens: in
        that time.
      whole: seconds from its start to its end. whole_processor: those of the processor.
      last_step: of its training metrics. loss: the last held-out loss; NaN if there is none.
    """

    seconds: float
    processor_seconds: float
    tokens: int
    whole: float
    whole_processor: float
    last_step: int
    loss: float


def ours(shape: Shape, texts: Texts) -> Callable[[Path], list[str]]:
    """The command of `python -m train` in a folder, with nothing but a recipe's settings."""
    settings = {
        "model.size": shape.size,
        "data.source": texts.train,
        "data.heldout_source": texts.heldout,
        "data.length": shape.context + 1,
        "data.batch_size": shape.batch,
        "steps": shape.steps,
        "log_every": shape.log_every,
        "evaluate.at_start": False,
        "evaluate.every": 0,
        "checkpoint.every": 0,
    }
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    recipe = "--config=configs/shakespeare.py"
    return lambda folder: [sys.executable, "-m", "train", recipe, f"--workdir={folder}", *words]


def quick(texts: Texts) -> Callable[[Path], list[str]]:
    """The command of the recipe `configs/shakespeare.py:quick` in a folder."""
    words = [f"--config.data.source={texts.train}", f"--config.data.heldout_source={texts.heldout}"]
    recipe = "--config=configs/shakespeare.py:quick"
    return lambda folder: [sys.executable, "-m", "train", recipe, f"--workdir={folder}", *words]


def theirs(
    python: str, shape: Shape, texts: Texts, evaluate: bool = False
) -> Callable[[Path], list[str]]:
    """The command of the PyTorch side in a folder."""
    settings = asdict(shape) | asdict(texts) | {"evaluate": evaluate}
    del settings["size"]
    return lambda folder: [python, str(TORCH_SIDE), json.dumps(settings), str(folder)]


def processor_seconds(pid: int) -> float:
    """Processor seconds of a running process, of all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def measure(command: Sequence[str], folder: Path, tokens_a_step: int) -> Turn:
    """Runs a command that writes `folder`/metrics.jsonl, and measures it.

    Raises:
      RuntimeError: it failed.
    """
    folder.mkdir(parents=True)
    metrics, read = folder / "metrics.jsonl", 0
    marks = list[tuple[int, float, float]]()  # (step, time, processor seconds)
    before, begun = os.times(), time.perf_counter()
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.01)
            text = metrics.read_text() if metrics.exists() else ""
            lines = text[: text.rfind("\n") + 1].splitlines()
            for record in map(json.loads, lines[read:]):
                if record["kind"] == "train":
                    used = processor_seconds(process.pid)
                    marks.append((record["step"], time.perf_counter(), used))
            read = len(lines)
    whole, after = time.perf_counter() - begun, os.times()
    if process.returncode:
        tail = (folder / "output.txt").read_text()[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "eval"]
    (first, start, used), (last, end, used_last) = marks[0], marks[-1]
    return Turn(
        end - start, used_last - used, (last - first) * tokens_a_step, whole,
        after.children_user + after.children_system - before.children_user - before.children_system,
        last, losses[-1] if losses else float("nan"),
    )  # fmt: skip


def race(
    commands: Mapping[str, Callable[[Path], list[str]]], folder: Path,
    tokens_a_step: int, turns: int, say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """{side: its turns, as `Turn` has them}. See the top of the file."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
    for turn in range(turns + 1):
        for side in list(commands)[:: 1 if turn % 2 else -1]:
            workdir = folder / f"{side}-{turn}"
            measured = measure(commands[side](workdir), workdir, tokens_a_step)
            if turn:
                results[side].append(asdict(measured))
            say(f"{side} {turn or 'warming up'}: {measured.tokens / measured.seconds:,.0f} "
                f"tokens/s, {measured.whole:.1f} s in all")  # fmt: skip
    return results


def ratios(results: Mapping[str, list[dict[str, Any]]], field: str) -> list[float]:
    """PyTorch's seconds over ours within each turn, of a field of `Turn`, for the same tokens."""
    pairs = zip(results["torch"], results["ours"], strict=True)
    return [t[field] / t["tokens"] / (o[field] / o["tokens"]) for t, o in pairs]


def _span(values: Sequence[float], format: str) -> str:
    low, high = (format.format(f(values)) for f in (min, max))
    return f"{format.format(median(values))} ({low} to {high})"


def speed_row(name: str, results: Mapping[str, list[dict[str, Any]]]) -> str:
    """The row of a shape: tokens a second of both sides, and the ratios."""
    cells = [_span([t["tokens"] / t["seconds"] for t in results[s]], "{:,.0f}")
             for s in ("torch", "ours")]  # fmt: skip
    cells.append(_span(ratios(results, "seconds"), "{:.2f}"))
    cells.append(_span(ratios(results, "processor_seconds"), "{:.2f}"))
    return f"| {name} | " + " | ".join(cells) + " |"


def loss_rows(results: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """A row a side: its held-out loss, and the seconds of the whole process; and one of ours as
    shares of PyTorch's within a turn."""
    names = {"torch": "nanoGPT's recipe in PyTorch", "ours": "`configs/shakespeare.py:quick`"}
    fields = ("whole", "whole_processor")
    rows = []
    for side, turns in results.items():
        cells = [names[side], f"{turns[0]['last_step']:,}"]
        cells += [f"{median(t['loss'] for t in turns):.3f}"]
        rows.append(cells + [_span([t[f] for t in turns], "{:.1f}") for f in fields])
    pairs = list(zip(results["ours"], results["torch"], strict=True))
    shares = [_span([o[f] / t[f] for o, t in pairs], "{:.2f}") for f in fields]
    return ["| " + " | ".join(cells) + " |" for cells in [*rows, ["ratio", "", "", *shares]]]
