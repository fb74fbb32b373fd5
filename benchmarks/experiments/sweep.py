"""Time of a sweep beside that of the same runs one by one, turn about, each side with an empty
compilation cache: prints a table and writes JSON.

    python -m benchmarks.experiments.sweep --source=examples/shakespeare/train.txt \\
        --vocab_size=512 --rounds=1

By default three learning rates, two optimizers, two seeds: twelve runs of 160 steps of a model of
about a million parameters. Checks that both sides end with the same losses, bit for bit.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

RATES, OPTIMIZERS, SEEDS = ("1e-3", "3e-3", "1e-2"), ("adamw", "muon"), (0, 1)
GRID = {"optimizer.peak_lr": RATES, "optimizer.name": OPTIMIZERS}

_SOURCE = flags.DEFINE_string(
    "source", None, "The text to train on, as --config.data.source.", required=True
)
_STEPS = flags.DEFINE_integer("steps", 160, "Steps of a run.", 1)
_VOCAB = flags.DEFINE_integer("vocab_size", 4096, "Of the tokenizer.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each side runs.", 1)
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")


def settings(source: str, steps: int, vocab_size: int) -> list[str]:
    """The flags that all runs share."""
    values = {
        "data.source": os.path.abspath(source), "steps": steps,
        "evaluate.every": max(steps // 2, 1), "checkpoint.every": 0,
        "data.heldout_limit": 32, "evaluate.samples": 0, "data.batch_size": 4,
        "model.embed_dim": 128, "model.num_layers": 3, "model.mlp_dim": 384,
        "tokenizer.vocab_size": vocab_size,
    }  # fmt: skip
    recipe = "--config=configs/pretrain.py:smoke"
    return [recipe, *(f"--config.{key}={value}" for key, value in values.items())]


def timed(commands: Sequence[Sequence[str]], cache: Path) -> float:
    """Seconds of commands, one after the other, with a compilation cache of their own."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache),
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    begun = time.monotonic()
    for command in commands:
        subprocess.run(
            [sys.executable, "-m", *command], check=True, env=environment,
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return time.monotonic() - begun


def together(shared: Sequence[str], workdir: Path) -> list[list[str]]:
    """The command of the sweep."""
    grid = [f"--grid={key}={','.join(values)}" for key, values in GRID.items()]
    return [["train.sweep", *shared, *grid, f"--seeds={len(SEEDS)}", f"--workdir={workdir}"]]


def apart(shared: Sequence[str], workdir: Path) -> list[list[str]]:
    """The commands of the same runs, in the sweep's order."""
    commands = []
    for rate, name, seed in itertools.product(RATES, OPTIMIZERS, SEEDS):
        own = {"optimizer.peak_lr": rate, "optimizer.name": name, "seed": seed}
        commands.append([
            "train", *shared, *(f"--config.{key}={value}" for key, value in own.items()),
            f"--workdir={workdir}/{rate}-{name}-{seed}",
        ])  # fmt: skip
    return commands


def losses(workdir: Path) -> list[float]:
    """The last losses of the runs in a folder, sorted."""
    ends = []
    for path in workdir.rglob("metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        ends.append(next(r["loss"] for r in reversed(records) if r["kind"] == "eval"))
    return sorted(ends)


def programs(cache: Path) -> int:
    """The number of compiled steps in a cache."""
    return len(list(cache.glob("jit_train_step-*-cache")))


def measure(shared: Sequence[str], folder: Path, sweep_first: bool) -> dict[str, float]:
    """{quantity: value} of one round."""
    sides = {"sweep": together, "apart": apart}
    order = list(sides) if sweep_first else list(sides)[::-1]
    seconds, counts, ends = {}, {}, {}
    for side in order:
        workdir, cache = folder / side, folder / f"cache-{side}"
        seconds[side] = timed(sides[side](shared, workdir), cache)
        counts[side], ends[side] = programs(cache), losses(workdir)
    if ends["sweep"] != ends["apart"]:
        raise SystemExit(f"the losses differ: {ends['sweep']} and {ends['apart']}")
    return {
        "sweep_seconds": seconds["sweep"], "apart_seconds": seconds["apart"],
        "ratio": seconds["sweep"] / seconds["apart"], "runs": len(ends["sweep"]),
        "sweep_programs": counts["sweep"], "apart_programs": counts["apart"],
    }  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    shared, rounds = settings(_SOURCE.value, _STEPS.value, _VOCAB.value), []
    print("| round | first | sweep, s | apart, s | ratio | runs | programs |")
    print("|---|---|---|---|---|---|---|")
    for number in range(1, _ROUNDS.value + 1):
        sweep_first = number % 2 == 1
        with tempfile.TemporaryDirectory(prefix="seedpod-sweep-") as folder:
            row = measure(shared, Path(folder), sweep_first)
        rounds.append(row)
        first = "sweep" if sweep_first else "apart"
        print(
            f"| {number} | {first} | {row['sweep_seconds']:.1f} | {row['apart_seconds']:.1f} | "
            f"{row['ratio']:.2f} | {row['runs']} | {row['sweep_programs']} |",
            flush=True,
        )
    median = statistics.median(row["ratio"] for row in rounds)
    print(f"\nmedian ratio {median:.2f}; both sides ended with the same losses, bit for bit")
    if _JSON.value:
        Path(_JSON.value).write_text(
            json.dumps({"rounds": rounds, "ratio": median}, indent=2) + "\n"
        )


if __name__ == "__main__":
    app.run(main)
