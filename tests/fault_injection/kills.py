"""Rows 1, 2, 3, 12: processes that are killed, stopped, or frozen."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from local_runs import last_step, workers

from fault_injection.lab import (
    EVERY,
    STAGES,
    STEPS,
    Lab,
    Process,
    Row,
    newest,
    resumed_at,
    same,
    saving,
)

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


def one_process(lab: Lab, trials: int) -> Row:
    """kill -9 at random times of a chain, again and again until it ends; then the next chain."""
    row = Row("1", "kill -9, one process")
    while row.trials < trials:
        workdir = lab.new("killed")
        points = kill_points(lab, min(10, trials - row.trials))
        killed: list[tuple[int, float]] = []
        process, stages = lab.start(workdir), []
        for stage, step, during_save in points:
            run = workdir / stage
            if not process.until(lambda: reached(run, step, during_save)):  # noqa: B023
                break  # the chain had passed the point before it was killed
            time.sleep(0 if during_save else lab.rng.random() * 0.2)
            process.kill()
            process.wait()
            at, begun = last_step(run), time.monotonic()
            process = lab.start(workdir)
            process.until(lambda: last_step(run) > newest(run) or "resuming" in process.output  # noqa: B023
                          or (run / "DONE").exists())  # noqa: B023  # fmt: skip
            lost = max(at - resumed_at(process.output), 0) if not (run / "DONE").exists() else 0
            killed.append((lost, time.monotonic() - begun))
            stages.append(stage)
        code = process.wait()
        exact = code == 0 and all(same(workdir / s, lab.reference / s) for s in STAGES)
        for lost, seconds in killed:
            survived = code == 0 and lost <= EVERY
            row.add(survived, exact, lost, seconds, f"lost {lost}, then {process.output}")
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
            if not process.until(lambda: reached(run, step, during_save) and workers(workdir)):  # noqa: B023
                break
            at, begun, attempts = last_step(run), time.monotonic(), process.output.count("attempt")
            victims = workers(workdir)
            os.kill(victims[lab.rng.choice(sorted(victims))], signal.SIGKILL)
            process.until(lambda: process.output.count("attempt") > attempts)  # noqa: B023
            kept = newest(run)
            process.until(lambda: workers(workdir).items().isdisjoint(victims.items())  # noqa: B023
                          and (last_step(run) > kept or (run / "DONE").exists()))  # noqa: B023  # fmt: skip
            killed.append((max(at - kept, 0), time.monotonic() - begun))
        code = process.wait()
        exact = code == 0 and all(same(workdir / s, reference / s) for s in STAGES)
        for lost, seconds in killed:
            row.add(code == 0 and lost <= EVERY, exact, lost, seconds, process.output)
    return row


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
    process.until(lambda: last_step(workdir) >= step)
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
        process.until(lambda: last_step(workdir) >= step and len(workers(workdir)) == 2)  # noqa: B023
        begun, victims = time.monotonic(), workers(workdir)
        os.kill(victims[1], signal.SIGSTOP)
        process.until(lambda: "attempt" in process.output)  # noqa: B023
        seconds, code = time.monotonic() - begun, process.wait()
        exact = code == 0 and same(workdir, reference)
        row.add(code == 0, exact, None, seconds, process.output)
    return row
