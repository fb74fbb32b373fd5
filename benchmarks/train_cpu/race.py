"""`python -m train` and nanoGPT's loop in PyTorch, each as a process that is measured.

Between its first record of training metrics and its last neither start-up nor compilation counts;
both sides write a record after the same steps, for which they await their computation. Processor
seconds are those of all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
