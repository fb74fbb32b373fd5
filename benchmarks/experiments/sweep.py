"""Time of a sweep beside that of the same runs one by one, turn about, each side with an empty
compilation cache: prints a table and writes JSON.

    python -m benchmarks.experiments.sweep --source=examples/shakespeare/train.txt \\
        --vocab_size=512 --rounds=1 --kills=3 --folder=runs/benchmark

By default three learning rates, two optimizers, two seeds: twelve runs of 160 steps of a model of
about a million parameters. Checks that both sides end with the same losses, bit for bit. With
--kills another sweep is killed so often, at random moments, and must end with the same files.

With --folder the same command goes on where it was killed: a side of a round that has ended is not
run again, and one that has not is run anew, as its time must be whole.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import results, turns
from data.atomic import write_atomically

RATES, OPTIMIZERS, SEEDS = ("1e-3", "3e-3", "1e-2"), ("adamw", "muon"), (0, 1)
GRID = {"optimizer.peak_lr": RATES, "optimizer.name": OPTIMIZERS}

_SOURCE = flags.DEFINE_string(
    "source", None, "The text to train on, as --config.data.source.", required=True
)
_STEPS = flags.DEFINE_integer("steps", 160, "Steps of a run.", 1)
_VOCAB = flags.DEFINE_integer("vocab_size", 4096, "Of the tokenizer.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each side runs.", 1)
_KILLS = flags.DEFINE_integer("kills", 0, "Times that another sweep is killed.", 0)
_FOLDER = flags.DEFINE_string("folder", "", "Keeps the runs here; by default they are removed.")
results.define_flags()


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


def environment(cache: Path) -> dict[str, str]:
    """The environment variables of a command with a compilation cache of its own."""
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache),
                         "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip


def timed(commands: Sequence[Sequence[str]], cache: Path) -> float:
    """Seconds of commands, one after the other, with a compilation cache of their own."""
    with turns.clock() as took:
        for command in commands:
            subprocess.run(
                [sys.executable, "-m", *command], check=True, env=environment(cache),
                stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            )  # fmt: skip
    return took.seconds


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


def side(commands: Sequence[Sequence[str]], workdir: Path) -> dict[str, Any]:
    """The seconds, programs and losses of one side of a round, or those that were recorded."""
    record, cache = workdir.with_suffix(".json"), workdir.with_suffix(".cache")
    if not record.exists():
        for path in (workdir, cache):
            shutil.rmtree(path, ignore_errors=True)
        workdir.mkdir(parents=True)
        seconds = timed(commands, cache)
        made = {"seconds": seconds, "programs": programs(cache), "losses": losses(workdir)}
        write_atomically(record, json.dumps(made))
    return json.loads(record.read_text())


def measure(shared: Sequence[str], folder: Path, sweep_first: bool) -> dict[str, float]:
    """{quantity: value} of one round."""
    commands = {"sweep": together, "apart": apart}
    order = list(commands) if sweep_first else list(commands)[::-1]
    sides = {name: side(commands[name](shared, folder / name), folder / name) for name in order}
    sweep, runs = sides["sweep"], sides["apart"]
    if sweep["losses"] != runs["losses"]:
        raise SystemExit(f"the losses differ: {sweep['losses']} and {runs['losses']}")
    return {
        "sweep_seconds": sweep["seconds"], "apart_seconds": runs["seconds"],
        "ratio": sweep["seconds"] / runs["seconds"], "runs": len(sweep["losses"]),
        "sweep_programs": sweep["programs"], "apart_programs": runs["programs"],
    }  # fmt: skip


def check_killed(shared: Sequence[str], folder: Path, kills: int) -> None:
    """Kills a sweep at random moments, and compares its files with those of the first round's.

    Raises:
      SystemExit: they differ.
    """
    whole, workdir = folder / "round-1" / "sweep", folder / "killed" / "sweep"
    seconds = json.loads(whole.with_suffix(".json").read_text())["seconds"]
    ((command),) = together(shared, workdir)
    rng = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment(workdir.with_suffix(".cache")),
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.1, 0.9) * seconds / kills)
        finally:
            process.kill()
            process.wait()
    timed([command], workdir.with_suffix(".cache"))
    for name in ("table.md", "sweep.json", "sweep.html"):
        if (whole / name).read_bytes() != (workdir / name).read_bytes():
            raise SystemExit(f"{workdir / name} differs from {whole / name}")
    print(f"killed {kills} times and run again, a sweep ends with the same files, byte for byte")


def main(argv: list[str]) -> None:
    del argv
    # A run of this process ends with it: it would write into the folder that is emptied next.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if _FOLDER.value:
        run(Path(_FOLDER.value).absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="seedpod-sweep-") as folder:
            run(Path(folder))


def run(folder: Path) -> None:
    """Runs what is not recorded in a folder, and prints all of it."""
    shared, rounds = settings(_SOURCE.value, _STEPS.value, _VOCAB.value), []
    record = folder / "settings.json"
    if record.exists() and json.loads(record.read_text()) != shared:
        raise SystemExit(f"{folder} has runs with other settings; give another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(shared))
    for number in range(1, _ROUNDS.value + 1):
        rounds.append(measure(shared, folder / f"round-{number}", number % 2 == 1))
        print(f"round {number}: sweep / apart {rounds[-1]['ratio']:.2f}", flush=True)
    if _KILLS.value:
        check_killed(shared, folder, _KILLS.value)
    columns = ("round", "first", "sweep, s", "apart, s", "ratio", "runs", "programs")
    rows = [
        [
            str(number), "sweep" if number % 2 else "apart", f"{row['sweep_seconds']:.1f}",
            f"{row['apart_seconds']:.1f}", f"{row['ratio']:.2f}", str(row["runs"]),
            str(row["sweep_programs"]),
        ]
        for number, row in enumerate(rounds, start=1)
    ]  # fmt: skip
    median = statistics.median(row["ratio"] for row in rounds)
    notes = [f"The median ratio is **{median:.2f}**; both ended with the same losses, bit for bit."]
    results.report(
        results.Result(
            "experiments.sweep", [results.Table(columns, rows)],
            {"rounds": rounds, "ratio": median}, results.given(), notes=notes,
        )
    )  # fmt: skip


if __name__ == "__main__":
    app.run(main)
