"""Rows 1, 2, 3, 12: processes that are killed, stopped, or frozen."""

from __future__ import annotations

import functools
import os
import re
import signal
import time
from pathlib import Path

from fault_injection.lab import (
    EVERY,
    STAGES,
    STEPS,
    Lab,
    Process,
    Row,
    at_step,
    newest,
    resumed_at,
    same,
    saving,
)
from local_runs import last_step, workers

INSIDE = 0.4  # of the kills, the share that waits for a save in progress


def kill_points(lab: Lab, count: int) -> list[tuple[str, int, bool]]:
    """Random (stage, step, during a save), in the order in which a chain comes to them."""
    points = [
        (number, lab.rng.randrange(1, STEPS), lab.rng.random() < INSIDE)
        for number in (lab.rng.randrange(len(STAGES)) for _ in range(count))
    ]
    return [(STAGES[number], step, save) for number, step, save in sorted(points)]


def reached(workdir: Path, step: int, during_save: bool) -> bool:
    """Whether a run is at the point at which it is to be killed."""
    if last_step(workdir) < step:
        return False
    return not during_save or saving(workdir) or last_step(workdir) >= STEPS


# A kill during a save loses the interval before it too. The loop waits for that save before it
# starts the next, so no more is lost.
MOST_LOST = 2 * EVERY


def trains(process: Process, run: Path) -> bool:
    """Whether a chain has come to a stage and takes steps, or the stage is done."""
    return _recovered(process, run, 0)


def one_process(lab: Lab, trials: int) -> Row:
    """kill -9 at random times of a chain, again and again until it ends; then the next chain."""
    row = Row("1", "kill -9, one process")
    while row.trials < trials:
        workdir, killed = lab.new("killed"), []
        process = lab.start(workdir)
        for stage, step, during_save in kill_points(lab, min(10, trials - row.trials)):
            run = workdir / stage
            if not process.until(functools.partial(reached, run, step, during_save)):
                break  # the chain had passed the point before it was killed
            time.sleep(0 if during_save else lab.rng.random() * 0.2)
            process.kill()
            process.wait()
            at, begun = last_step(run), time.monotonic()
            process = lab.start(workdir)
            process.until(functools.partial(trains, process, run))
            seconds, done = time.monotonic() - begun, (run / "DONE").exists()
            killed.append((0 if done else max(at - resumed_at(process.output), 0), seconds))
        _count(row, process, killed, workdir, lab.reference)
    return row


def two_processes(lab: Lab, trials: int) -> Row:
    """kill -9 of either of two joined processes; the supervisor starts both again."""
    row = Row("1", "kill -9, one of two processes")
    reference = lab.directory / "reference-two"
    launcher = ["local", "--processes=2", "--heartbeat=5", "--supervise", "--give_up_after=9"]
    if not (reference / STAGES[-1] / "DONE").exists():
        lab.finish(lab.start(reference, launcher=launcher))
    while row.trials < trials:
        workdir, killed = lab.new("killed-two"), []
        process = lab.start(workdir, launcher=launcher)
        for stage, step, during_save in kill_points(lab, min(10, trials - row.trials)):
            run = workdir / stage
            if not process.until(functools.partial(reached, run, step, during_save)):
                break
            victims = workers(workdir)
            if len(victims) < 2:
                continue
            at, begun, attempts = last_step(run), time.monotonic(), process.output.count("attempt")
            shown = _lines(process, run)
            os.kill(victims[lab.rng.randrange(2)], signal.SIGKILL)
            process.until(functools.partial(_more_attempts, process, attempts))
            kept = newest(run)
            process.until(functools.partial(_recovered, process, run, shown))
            killed.append((max(at - kept, 0), time.monotonic() - begun))
        _count(row, process, killed, workdir, reference)
    return row


def _more_attempts(process: Process, attempts: int) -> bool:
    """Whether the supervisor has spoken of another attempt."""
    return process.output.count("attempt") > attempts


def _lines(process: Process, run: Path) -> int:
    """The number of lines so far in which a stage shows a step."""
    return len(re.findall(rf"{run.name} \d+/{STEPS} loss", process.output))


def _recovered(process: Process, run: Path, shown: int) -> bool:
    """Whether a stage shows more steps than before it was killed, or is done."""
    return _lines(process, run) > shown or (run / "DONE").exists()


def _count(
    row: Row, process: Process, killed: list[tuple[int, float]], workdir: Path, reference: Path
) -> None:
    """Waits for a chain to end, and counts the kills that it came through."""
    code = process.wait()
    exact = code == 0 and all(same(workdir / s, reference / s) for s in STAGES)
    for lost, seconds in killed:
        note = f"exit {code}, lost {lost}: {process.output}"
        row.add(code == 0 and lost <= MOST_LOST, exact, lost, seconds, note)


def signalled(lab: Lab, trials: int) -> list[Row]:
    """SIGTERM to one process or to one of two; and a second signal while it saves."""
    rows = [Row("2", "SIGTERM"), Row("2", "SIGTERM to one of two processes"),
            Row("3", "a second SIGTERM or Ctrl-C during the save")]  # fmt: skip
    for _ in range(trials):
        rows[0].add(**_stop(lab, lab.start(workdir := lab.new("term"), "sft"), workdir))
    two = ["local", "--processes=2"]
    for _ in range(max(trials // 2, 1)):
        workdir = lab.new("term-two")
        rows[1].add(**_stop(lab, lab.start(workdir, "sft", launcher=two), workdir, launcher=two))
    for _ in range(trials):
        workdir = lab.new("twice")
        rows[2].add(**_stop(lab, lab.start(workdir, "sft"), workdir, again=True))
    return rows


def _stop(
    lab: Lab, process: Process, workdir: Path, launcher: list[str] | None = None,
    again: bool = False,
) -> dict:  # fmt: skip
    """Stops a run at a random step, resumes it, and says what came of it."""
    step, second = lab.rng.randrange(1, STEPS - 5), lab.rng.choice((signal.SIGTERM, signal.SIGINT))
    process.until(at_step(workdir, step))
    begun = time.monotonic()
    if launcher:
        os.kill(workers(workdir)[1], signal.SIGTERM)
    else:
        process.kill(signal.SIGTERM)
    if again:
        process.until(lambda: saving(workdir) or newest(workdir) >= last_step(workdir))
        process.kill(second)
    code, seconds = process.wait(), time.monotonic() - begun
    stopped_at, kept = last_step(workdir), newest(workdir)
    lost = max(stopped_at - kept, 0)
    good = code == 42 and seconds < 15 and not lost if not again else code and lost <= EVERY
    resumed = lab.start(workdir, "sft", launcher=launcher or ())
    ended = resumed.wait()
    reference = lab.reference / "sft"
    if launcher:
        reference = lab.directory / "reference-term-two"
        if not reference.exists():
            lab.finish(lab.start(reference, "sft", launcher=launcher))
    exact = ended == 0 and same(workdir, reference)
    note = f"exit {code} after {seconds:.1f} s, lost {lost}; {process.output}\n{resumed.output}"
    return dict(survived=bool(good) and ended == 0, exact=exact, lost=lost, seconds=seconds,
                note=note)  # fmt: skip


def frozen(lab: Lab, trials: int) -> Row:
    """A worker that stops answering (SIGSTOP): the supervisor kills it and starts both again."""
    row = Row("12", "a worker frozen (SIGSTOP)")
    launcher = ["local", "--processes=2", "--heartbeat=5", "--supervise"]
    reference = lab.directory / "reference-frozen"
    if not reference.exists():
        lab.finish(lab.start(reference, "pretrain", launcher=launcher))
    for _ in range(trials):
        workdir = lab.new("frozen")
        process = lab.start(workdir, "pretrain", launcher=launcher)
        step = lab.rng.randrange(1, STEPS - 8)
        process.until(at_step(workdir, step))
        begun, victims = time.monotonic(), workers(workdir)
        os.kill(victims[1], signal.SIGSTOP)
        process.until(functools.partial(_more_attempts, process, 0))
        seconds, code = time.monotonic() - begun, process.wait()
        exact = code == 0 and same(workdir, reference)
        row.add(code == 0, exact, None, seconds, process.output)
    return row
