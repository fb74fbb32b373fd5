"""Time of a sweep, in one process and in two (`--parallel=2`), beside that of the same runs one by
one, turn about, each side with an empty compilation cache: prints a table and writes JSON.

    python -m benchmarks.experiments.sweep --source=examples/shakespeare/train.txt \\
        --vocab_size=512 --rounds=1 --kills=3 --folder=runs/benchmark

By default three learning rates, two optimizers, two seeds: twelve runs of 160 steps of a model of
about a million parameters. Checks that the sweep in one process ends with the losses of the runs
one by one, bit for bit, and that in two, with half of the threads each, to rounding. With --kills
other sweeps, one of each kind, are killed so often, at random moments, and must end with the same
files.

With --folder the same command goes on where it was killed: a side of a round that has ended is not
run again, and one that has not is run anew, as its time must be whole.
"""

from __future__ import annotations

import contextlib
import functools
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import results, turns
from data.atomic import write_atomically

RATES, OPTIMIZERS, SEEDS = ("1e-3", "3e-3", "1e-2"), ("adamw", "muon"), (0, 1)
GRID = {"optimizer.peak_lr": RATES, "optimizer.name": OPTIMIZERS}
ROUNDING = 0.01  # nats at the end of a run of which every step rounds otherwise

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


def together(parallel: int, shared: Sequence[str], workdir: Path) -> list[list[str]]:
    """The command of the sweep, in so many processes."""
    grid = [f"--grid={key}={','.join(values)}" for key, values in GRID.items()]
    return [[
        "train.sweep", *shared, *grid, f"--seeds={len(SEEDS)}", f"--workdir={workdir}",
        f"--parallel={parallel}",
    ]]  # fmt: skip


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


SIDES: dict[str, Callable[[Sequence[str], Path], list[list[str]]]] = {
    "sweep": functools.partial(together, 1),
    "parallel": functools.partial(together, 2),
    "apart": apart,
}


def measure(shared: Sequence[str], folder: Path, sweep_first: bool) -> dict[str, float]:
    """{quantity: value} of one round."""
    order = list(SIDES) if sweep_first else list(SIDES)[::-1]
    sides = {name: side(SIDES[name](shared, folder / name), folder / name) for name in order}
    sweep, parallel, runs = (sides[name] for name in SIDES)
    if sweep["losses"] != runs["losses"]:
        raise SystemExit(f"the losses differ: {sweep['losses']} and {runs['losses']}")
    pairs = zip(parallel["losses"], runs["losses"], strict=True)
    differs = max(abs(one - other) for one, other in pairs)
    if differs > ROUNDING:
        raise SystemExit(f"losses differ by {differs} nats, more than by rounding")
    return {
        **{f"{name}_{key}": sides[name][key] for name in SIDES for key in ("seconds", "programs")},
        "ratio": sweep["seconds"] / runs["seconds"], "runs": len(sweep["losses"]),
        "parallel_ratio": parallel["seconds"] / runs["seconds"], "differs": differs,
    }  # fmt: skip


def check_killed(shared: Sequence[str], name: str, folder: Path, kills: int) -> None:
    """Kills a sweep of one kind at random moments, and compares its files with those of the first
    round's.

    Raises:
      SystemExit: they differ.
    """
    whole, workdir = folder / "round-1" / name, folder / f"killed-{name}" / name
    seconds = json.loads(whole.with_suffix(".json").read_text())["seconds"]
    (command,) = SIDES[name](shared, workdir)
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
    for file in ("table.md", "sweep.json", "sweep.html"):
        if (whole / file).read_bytes() != (workdir / file).read_bytes():
            raise SystemExit(f"{workdir / file} differs from {whole / file}")
    print(f"{name}: killed {kills} times it ends with the same files, byte for byte", flush=True)


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
        ratios = " and ".join(f"{rounds[-1][key]:.2f}" for key in ("ratio", "parallel_ratio"))
        print(f"round {number}: one process and two, beside runs one by one: {ratios}", flush=True)
    killed = ("sweep", "parallel") if _KILLS.value else ()
    for name in killed:
        check_killed(shared, name, folder, _KILLS.value)
    columns = ("round", "first", "one process, s", "two processes, s", "one by one, s", "ratios",
               "runs", "programs")  # fmt: skip
    rows = [
        [
            str(number), "sweep" if number % 2 else "one by one",
            *(f"{row[f'{name}_seconds']:.1f}" for name in SIDES),
            f"{row['ratio']:.2f}, {row['parallel_ratio']:.2f}", str(row["runs"]),
            ", ".join(str(row[f"{name}_programs"]) for name in SIDES),
        ]
        for number, row in enumerate(rounds, start=1)
    ]  # fmt: skip
    one, two = (statistics.median(r[key] for r in rounds) for key in ("ratio", "parallel_ratio"))
    differs = max(row["differs"] for row in rounds)
    notes = [
        f"The median ratio is {one:.2f} in one process, with the same losses bit for bit, and "
        f"**{two:.2f}** with `--parallel=2`, with half of the cores for each process and losses "
        f"that differ by at most {differs:.1e} nats."
    ]
    if killed:
        notes.append(
            f"Killed {_KILLS.value} times at random and run again, a sweep of either kind ended "
            "with the same files, byte for byte."
        )
    results.report(
        results.Result(
            "experiments.sweep", [results.Table(columns, rows)],
            {"rounds": rounds, "ratio": one, "parallel_ratio": two, "kills": _KILLS.value},
            results.given(), notes=notes,
        )
    )  # fmt: skip


if __name__ == "__main__":
    app.run(main)
