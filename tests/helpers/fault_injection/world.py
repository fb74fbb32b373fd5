"""Rows 6, 8 to 11, 13 to 15: disks, numbers, other runs, what hangs, what is not training."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from local_runs import last_step, records

from fault_injection.lab import (
    EVERY,
    STEPS,
    Lab,
    Row,
    newest,
    resumed_at,
    same,
    weights,
)

PLUGIN = '''
"""Faults inside a run, by environment variables: HANG, FAIL, NAN name a step."""

import os
import time
from pathlib import Path

import jax
import numpy as np

from train.evals.perplexity import Perplexity
from train.objectives.base import LoaderSource
from train.rl.rewards import Episode

next_batch, evaluate = LoaderSource.next, Perplexity.__call__


def faulty_next(self, state, frozen, s, step):
    batch, s_new, metrics = next_batch(self, state, frozen, s, step)
    if os.environ.get("HANG") == str(step):
        time.sleep(3600)
    first, _, last = os.environ.get("NAN", "").partition("-")
    position = int(s["step"])  # of the data, which goes on where a run goes back
    if first and int(first) <= position < int(last):
        mask = batch["loss_mask"]
        nans = np.full(mask.shape, np.nan, mask.dtype)
        batch = batch | {"loss_mask": jax.device_put(nans, mask.sharding)}
    return batch, s_new, metrics


def faulty_evaluate(self, *arguments, **names):
    if os.environ.get("FAIL"):
        raise RuntimeError("this evaluation fails")
    return evaluate(self, *arguments, **names)


def hanging_reward(episode: Episode) -> float:
    marker = Path(os.environ["MARKER"])
    if marker.exists():
        time.sleep(3600)
    return -0.01 * len(episode.response)


LoaderSource.next, Perplexity.__call__ = faulty_next, faulty_evaluate
'''


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory of so many megabytes. Needs root."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the space that is left in a file system."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return path


def full_disk(lab: Lab, trials: int) -> list[Row]:
    """A disk that is really full: for a second, for good, and only that of the logs."""
    rows = [Row("6", "disk full for a second"), Row("6", "disk full until after the run gave up"),
            Row("6", "only the logs' disk full")]  # fmt: skip
    reference = lab.reference / "sft"
    for _ in range(trials):
        with small_disk(lab.new("disk"), 64) as disk:
            workdir = disk / "run"
            process = lab.start(workdir, "sft")
            step = lab.rng.randrange(EVERY, STEPS - 2 * EVERY)
            process.until(lambda: last_step(workdir) >= step)  # noqa: B023
            filler = fill(disk)
            time.sleep(1)
            filler.unlink()
            code = process.wait()
            exact = code == 0 and same(workdir, reference)
            rows[0].add(code == 0, exact, note=process.output)
        with small_disk(lab.new("disk"), 64) as disk:
            workdir = disk / "run"
            process = lab.start(workdir, "sft")
            process.until(lambda: newest(workdir) >= EVERY)  # noqa: B023
            filler = fill(disk)
            code, kept = process.wait(), newest(workdir)
            filler.unlink()
            begun, at = time.monotonic(), last_step(workdir)
            resumed = lab.start(workdir, "sft")
            ended = resumed.wait()
            good = code not in (0, 1) and kept >= EVERY and resumed_at(resumed.output) >= kept
            exact = ended == 0 and same(workdir, reference)
            note = f"exit {code}: {process.output}\n{resumed.output}"
            rows[1].add(
                good and ended == 0, exact, max(at - kept, 0), time.monotonic() - begun, note
            )
        with small_disk(lab.new("disk"), 1) as disk:
            workdir, elsewhere = disk / "run", lab.new("elsewhere")
            workdir.mkdir()
            elsewhere.mkdir()
            (workdir / "checkpoints").symlink_to(elsewhere)
            fill(disk)
            process = lab.start(workdir, "sft")
            code = process.wait()
            saved = max((int(p.name) for p in elsewhere.iterdir() if p.name.isdigit()), default=0)
            rows[2].add(code == 0 and saved == STEPS, note=f"exit {code}: {process.output}")
    return rows


def numbers(lab: Lab, trials: int) -> list[Row]:
    """Losses that are not finite, of one step, of a window of data, and of every step."""
    rows = [Row("8", "NaN in one step"), Row("8", "NaN in a window: back, and past it"),
            Row("8", "a rate that ruins the weights")]  # fmt: skip
    plugin = ("--config.plugins=('faulty',)",)
    guard = ("--config.guard.in_a_row=3",)
    (lab.directory / "faulty.py").write_text(PLUGIN)

    def run(name: str, *flags: str, **environment: str):
        workdir = lab.new(name)
        process = lab.start(workdir, "sft", *flags, **environment)
        return workdir, process, process.wait()

    def finite(workdir: Path) -> bool:
        values = [r["loss"] for r in records(workdir) if r["kind"] == "train"]
        return bool(np.isfinite([v for v in values if v is not None]).all())

    for _ in range(trials):
        step = lab.rng.randrange(2, STEPS - 10)
        one = dict(NAN=f"{step}-{step + 1}")
        first, second = (run("nan", *plugin, **one) for _ in range(2))
        good = first[2] == 0 and "not applied" in first[1].output
        rows[0].add(good, same(first[0], second[0]), note=first[1].output)

        window = dict(NAN=f"{step}-{step + 3}")
        workdir, process, code = run("window", *plugin, *guard, **window)
        other = run("window", *plugin, *guard, **window)
        good = code == 0 and "back to step" in process.output and bool(weights(workdir))
        rows[1].add(good, same(workdir, other[0]), note=process.output)

        workdir, process, code = run("rate", "--config.optimizer.peak_lr=1e38", *guard)
        saved = newest(workdir)
        good = (
            code == 1
            and "Traceback" not in process.output
            and (not saved or bool(weights(workdir)))
        )
        rows[2].add(good, note=f"exit {code}: {process.output}")
    return rows


def other_mesh(lab: Lab, trials: int) -> Row:
    """A run continued on another mesh and another number of processes."""
    row = Row("9", "resumed on another mesh and process count")
    reference = lab.reference / "sft"
    for _ in range(trials):
        workdir = lab.trained("sft")
        import shutil

        shutil.rmtree(workdir / "checkpoints" / str(STEPS))
        (workdir / "saved.json").unlink(missing_ok=True)
        process = lab.start(workdir, "sft", launcher=["local", "--processes=2"])
        code = process.wait()
        close = code == 0 and all(
            abs(a["loss"] - b["loss"]) <= 1e-5
            for a, b in zip(records(workdir), records(reference), strict=True)
            if a["kind"] == "train"
        )
        row.add(close, None, EVERY, note=process.output)
    return row


def changed_config(lab: Lab, trials: int) -> list[Row]:
    """A resume with other settings: refused, named, or free."""
    rows = [Row("10", f"config changed: {kind}") for kind in ("refused", "named", "free")]
    cases = (
        (rows[0], 1, ("--config.seed=9",)),
        (rows[1], 1, ("--config.optimizer.peak_lr=1e-3",)),
        (rows[1], 0, ("--config.optimizer.peak_lr=1e-3", "--allow_change=optimizer.peak_lr")),
        (rows[2], 0, ("--config.log_every=2",)),
    )
    for _ in range(trials):
        for row, wanted, flags in cases:
            workdir = lab.trained("sft")
            process = lab.start(workdir, "sft", f"--config.steps={STEPS + 2}", *flags)
            code = process.wait()
            good = code == wanted and "Traceback" not in process.output
            row.add(good, note=f"exit {code}: {process.output}")
    return rows


def two_runs(lab: Lab, trials: int) -> list[Row]:
    """Two runs in one workdir, and the lock of one that was killed."""
    rows = [Row("11", "two runs in one workdir"), Row("11", "the lock of a killed run")]
    for _ in range(trials):
        workdir = lab.new("shared")
        first = lab.start(workdir, "sft")
        first.until(lambda: last_step(workdir) >= 1)  # noqa: B023
        second = lab.start(workdir, "sft")
        code = second.wait()
        refused = code == 1 and str(first.popen.pid) in second.output
        exact = first.wait() == 0 and same(workdir, lab.reference / "sft")
        rows[0].add(refused, exact, note=f"exit {code}: {second.output}\n{first.output}")

        workdir = lab.new("stale")
        first = lab.start(workdir, "sft")
        first.until(lambda: newest(workdir) >= EVERY)  # noqa: B023
        first.kill()
        first.wait()
        begun = time.monotonic()
        second = lab.start(workdir, "sft")
        exact = second.wait() == 0 and same(workdir, lab.reference / "sft")
        rows[1].add(exact, exact, None, time.monotonic() - begun, second.output)
    return rows


def peers(lab: Lab, trials: int) -> list[Row]:
    """A peer that does not come, and a port that is taken: a line, in bounded time."""
    rows = [Row("13", "a missing peer"), Row("13", "a busy port")]
    for _ in range(trials):
        for row in rows:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                port = taken.getsockname()[1]
                if row is rows[1]:
                    taken.listen()
                else:
                    taken.close()
                flags = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--process_id=0",
                         "--distributed", "--peer_timeout=5")  # fmt: skip
                begun = time.monotonic()
                process = lab.start(lab.new("alone"), "sft", *flags)
                code, seconds = process.wait(), time.monotonic() - begun
            lines = [line for line in process.output.splitlines() if line.startswith("error:")]
            wanted = code >= 128 if row is rows[0] else code == 1
            row.add(
                wanted and len(lines) == 1 and seconds < 60, None, None, seconds, process.output
            )
    return rows


def hanging(lab: Lab, trials: int) -> list[Row]:
    """A step, or a reward, that never returns."""
    rows = [Row("14", "a step that hangs"), Row("14", "a reward that never returns")]
    (lab.directory / "faulty.py").write_text(PLUGIN)
    watch = (
        "--config.watchdog.floor=3",
        "--config.watchdog.factor=5",
        "--config.plugins=('faulty',)",
    )
    for _ in range(trials):
        workdir, step = lab.new("hang"), lab.rng.randrange(EVERY + 1, STEPS)
        process = lab.start(workdir, "sft", *watch, HANG=str(step))
        process.until(lambda: last_step(workdir) >= step)  # noqa: B023
        begun, code = time.monotonic(), process.wait()
        seconds = time.monotonic() - begun
        at, kept = last_step(workdir), newest(workdir)
        stacks = any("faulty_next" in p.read_text(errors="replace")
                     for p in workdir.glob("*") if p.is_file())  # fmt: skip
        resumed = lab.start(workdir, "sft", *watch)
        exact = resumed.wait() == 0 and same(workdir, lab.reference / "sft")
        good = code >= 128 and (stacks or "faulty_next" in process.output)
        rows[0].add(
            good,
            exact,
            max(at - kept, 0),
            seconds,
            f"exit {code}: {process.output}\n{resumed.output}",
        )

        workdir, marker = lab.new("reward"), lab.directory / "marker"
        marker.unlink(missing_ok=True)
        flags = ("--config.rl.reward_function=faulty:hanging_reward", "--config.rewards.timeout=2")
        environment = dict(MARKER=str(marker))
        process = lab.start(workdir, "ppo", *flags, *watch, **environment)
        process.until(lambda: newest(workdir) >= EVERY)  # noqa: B023
        marker.touch()
        begun, code = time.monotonic(), process.wait()
        seconds = time.monotonic() - begun
        marker.unlink()
        resumed = lab.start(workdir, "ppo", *flags, *watch, **environment)
        ended = resumed.wait()
        whole = lab.directory / "reward-whole"
        if not whole.exists():
            lab.finish(lab.start(whole, "ppo", *flags, *watch, **environment))
        exact = ended == 0 and same(workdir, whole)
        rows[1].add(code != 0 and seconds < 60, exact, None, seconds,
                    f"exit {code}: {process.output}\n{resumed.output}")  # fmt: skip
    return rows


def evaluations(lab: Lab, trials: int) -> list[Row]:
    """An evaluation that fails, and one that a kill left out."""
    rows = [Row("15", "an evaluation that fails"), Row("15", "killed while evaluating")]
    (lab.directory / "faulty.py").write_text(PLUGIN)
    plugin = ("--config.plugins=('faulty',)",)
    reference = lab.reference / "sft"
    for _ in range(trials):
        workdir = lab.new("evaluation")
        process = lab.start(workdir, "sft", *plugin, FAIL="1")
        code = process.wait()
        exact = code == 0 and weights(workdir) == weights(reference)
        told = "this evaluation fails" in process.output
        rows[0].add(code == 0 and told, exact, note=process.output)

        workdir = lab.new("evaluating")
        process = lab.start(workdir, "sft", "--config.evaluate.every=1")
        step = lab.rng.randrange(3, STEPS - 3)
        process.until(lambda: last_step(workdir) >= step)  # noqa: B023
        time.sleep(lab.rng.random() * 0.1)
        process.kill()
        process.wait()
        resumed, whole = (
            lab.start(workdir, "sft", "--config.evaluate.every=1"),
            lab.directory / "every",
        )
        ended = resumed.wait()
        if not whole.exists():
            lab.finish(lab.start(whole, "sft", "--config.evaluate.every=1"))
        exact = ended == 0 and same(workdir, whole)
        rows[1].add(ended == 0, exact, note=resumed.output)
    return rows
