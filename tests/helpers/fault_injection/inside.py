"""Rows 8, 14, 15: numbers that are not finite, what hangs, and evaluations that fail."""

from __future__ import annotations

import time
from pathlib import Path

from fault_injection.lab import (
    EVERY,
    FAULTY,
    STEPS,
    Lab,
    Process,
    Row,
    at_step,
    has_saved,
    newest,
    same,
    weights,
)
from local_runs import last_step, records

GUARD = "--config.guard.in_a_row=3"
WATCHDOG = ("--config.watchdog.least=3", "--config.watchdog.factor=5", FAULTY)


def numbers(lab: Lab, trials: int) -> list[Row]:
    """Losses that are not finite in one step and in a window of data, and a rate that is absurd.
    Exact: the same as of another run with the same fault, which is killed and resumed."""
    rows = [Row("8", "NaN in one step"), Row("8", "NaN in a window: back, and past it"),
            Row("8", "a rate that ruins the weights")]  # fmt: skip
    for _ in range(trials):
        first = lab.rng.randrange(EVERY + 1, STEPS - 12)
        _not_finite(lab, rows[0], f"{first}-{first + 1}", "not applied")
        _not_finite(lab, rows[1], f"{first}-{first + 3}", "back to step")
        workdir = lab.new("rate")
        process = lab.start(workdir, "sft", "--config.optimizer.peak_lr=1e38", GUARD)
        code = process.wait()
        # Whatever is saved can be loaded, which refuses what is not finite.
        good = code == 1 and "Traceback" not in process.output
        good = good and (not newest(workdir) or bool(weights(workdir)))
        rows[2].add(good, note=f"exit {code}: {process.output}")
    return rows


def _not_finite(lab: Lab, row: Row, window: str, said: str) -> None:
    """A run whose losses are NaN in a window of its data, let alone and killed after it."""
    whole, killed = lab.new("nan"), lab.new("nan-killed")
    process = lab.start(whole, "sft", FAULTY, GUARD, NAN=window)
    code = process.wait()
    losses = [r["loss"] for r in records(whole) if r["kind"] == "train"] if code == 0 else []
    other = lab.start(killed, "sft", FAULTY, GUARD, NAN=window)
    other.until(lambda: said in other.output)
    other.until(at_step(killed, int(window.split("-")[0]) + lab.rng.randrange(1, 6)))
    other.kill()
    other.wait()
    resumed = lab.start(killed, "sft", FAULTY, GUARD, NAN=window)
    exact = resumed.wait() == 0 == code and same(killed, whole)
    good = said in process.output and bool(losses) and bool(weights(whole))
    row.add(good, exact, note=f"{process.output}\n{other.output}\n{resumed.output}")


def hanging(lab: Lab, trials: int) -> list[Row]:
    """A batch, or a reward, that never comes."""
    rows = [Row("14", "a step that hangs"), Row("14", "a reward that never returns")]
    for _ in range(trials):
        _hanging_step(lab, rows[0])
        _hanging_reward(lab, rows[1])
    return rows


def _hanging_step(lab: Lab, row: Row) -> None:
    workdir, step = lab.new("hang"), lab.rng.randrange(EVERY + 1, STEPS)
    process = lab.start(workdir, "sft", *WATCHDOG, HANG=str(step))
    process.until(at_step(workdir, step))
    begun, code = time.monotonic(), process.wait()
    seconds, at, kept = time.monotonic() - begun, last_step(workdir), newest(workdir)
    stacks = "faulty_next" in (workdir / "log.txt").read_text(errors="replace") + process.output
    resumed = lab.start(workdir, "sft", *WATCHDOG)
    exact = resumed.wait() == 0 and same(workdir, lab.reference / "sft")
    note = f"exit {code}: {process.output}\n{resumed.output}"
    row.add(code >= 128 and stacks, exact, max(at - kept, 0), seconds, note)


def _hanging_reward(lab: Lab, row: Row) -> None:
    marker, whole = lab.directory / "marker", lab.directory / "reward-whole"
    marker.unlink(missing_ok=True)

    def start(workdir: Path) -> Process:
        reward = "--config.rl.reward_function=faulty:hanging_reward"
        timeout = "--config.rewards.timeout=2"
        return lab.start(workdir, "ppo", FAULTY, reward, timeout, MARKER=str(marker))

    if not whole.exists():
        lab.finish(start(whole))
    workdir = lab.new("reward")
    process = start(workdir)
    process.until(has_saved(workdir, EVERY))
    marker.touch()
    begun, code = time.monotonic(), process.wait()
    seconds = time.monotonic() - begun
    marker.unlink()
    resumed = start(workdir)
    exact = resumed.wait() == 0 and same(workdir, whole)
    good = code != 0 and seconds < 60 and "Traceback" not in process.output
    row.add(good, exact, None, seconds, f"exit {code}: {process.output}\n{resumed.output}")


def evaluations(lab: Lab, trials: int) -> list[Row]:
    """An evaluation that fails, and one that a kill left out."""
    rows = [Row("15", "an evaluation that fails"), Row("15", "killed while evaluating")]
    every, whole = "--config.evaluate.every=1", lab.directory / "evaluated-whole"
    for _ in range(trials):
        workdir = lab.new("evaluation")
        process = lab.start(workdir, "sft", FAULTY, FAIL="1")
        code = process.wait()
        exact = code == 0 and weights(workdir) == weights(lab.reference / "sft")
        rows[0].add("this evaluation fails" in process.output, exact, note=process.output)

        if not whole.exists():
            lab.finish(lab.start(whole, "sft", every))
        workdir = lab.new("evaluating")
        process = lab.start(workdir, "sft", every)
        process.until(at_step(workdir, lab.rng.randrange(3, STEPS - 3)))
        time.sleep(lab.rng.random() * 0.1)
        process.kill()
        process.wait()
        resumed = lab.start(workdir, "sft", every)
        exact = resumed.wait() == 0 and same(workdir, whole)
        rows[1].add(exact, exact, note=resumed.output)
    return rows
