"""Rows 9, 10, 11, 13: another mesh, other settings, another run, and peers that do not come."""

from __future__ import annotations

import shutil
import socket
import time

from fault_injection.lab import EVERY, STEPS, Lab, Row, at_step, has_saved, same
from local_runs import records


def other_mesh(lab: Lab, trials: int) -> Row:
    """A run of one process continued by two; their losses are within 1e-5."""
    row = Row("9", "resumed on another mesh and process count")
    for _ in range(trials):
        workdir = lab.trained("sft")
        shutil.move(workdir / "checkpoints" / str(STEPS), lab.new("moved"))
        process = lab.start(workdir, "sft", launcher=["local", "--processes=2"])
        code = process.wait()
        pairs = zip(records(workdir), records(lab.reference / "sft"), strict=True)
        close = code == 0 and all(
            abs(a["loss"] - b["loss"]) <= 1e-5 for a, b in pairs if a["kind"] == "train"
        )
        row.add(close, None, EVERY, note=f"exit {code}: {process.output}")
    return row


def changed_config(lab: Lab, trials: int) -> list[Row]:
    """A resume with other settings: refused, allowed when named, or free."""
    rows = [Row("10", f"config changed: {kind}") for kind in ("refused", "named", "free")]
    rate = "--config.optimizer.peak_lr=1e-3"
    cases = (
        (rows[0], 1, ("--config.seed=9",)),
        (rows[1], 1, (rate,)),
        (rows[1], 0, (rate, "--allow_change=optimizer.peak_lr,steps")),
        (rows[2], 0, ("--config.log_every=2", "--config.model.remat=full")),
    )
    for _ in range(trials):
        for row, wanted, flags in cases:
            workdir = lab.trained("sft")
            steps = () if row is rows[2] else (f"--config.steps={STEPS + 2}",)
            process = lab.start(workdir, "sft", *steps, *flags)
            code = process.wait()
            good = code == wanted and "Traceback" not in process.output
            row.add(good, note=f"exit {code}: {process.output}")
    return rows


def two_runs(lab: Lab, trials: int) -> list[Row]:
    """Two runs in one workdir, and the lock of one that was killed."""
    rows = [Row("11", "two runs in one workdir"), Row("11", "the lock of a killed run")]
    for _ in range(trials):
        workdir = lab.new("shared")
        first = lab.start(workdir, "sft", "--config.evaluate.every=1")
        first.until(at_step(workdir, 1))
        second = lab.start(workdir, "sft", "--config.evaluate.every=1")
        code = second.wait()
        refused = code == 1 and str(first.popen.pid) in second.output
        whole = lab.directory / "evaluated-whole"
        if not whole.exists():
            lab.finish(lab.start(whole, "sft", "--config.evaluate.every=1"))
        exact = first.wait() == 0 and same(workdir, whole)
        rows[0].add(refused, exact, note=f"exit {code}: {second.output}\n{first.output}")

        workdir = lab.new("stale")
        first = lab.start(workdir, "sft")
        first.until(has_saved(workdir, EVERY))
        first.kill()
        first.wait()
        begun = time.monotonic()
        second = lab.start(workdir, "sft")
        exact = second.wait() == 0 and same(workdir, lab.reference / "sft")
        rows[1].add(exact, exact, None, time.monotonic() - begun, second.output)
    return rows


def peers(lab: Lab, trials: int) -> list[Row]:
    """A peer that does not come, and a port that is taken: one line, in bounded time."""
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
                begun = time.monotonic()
                process = lab.start(
                    lab.new("alone"), "sft", f"--coordinator=127.0.0.1:{port}", "--distributed",
                    "--num_processes=2", "--process_id=0", "--peer_timeout=5",
                )  # fmt: skip
                code, seconds = process.wait(), time.monotonic() - begun
            errors = [line for line in process.output.splitlines() if line.startswith("error:")]
            good = len(errors) == 1 and (code == 1 if row is rows[1] else code >= 128)
            row.add(good and seconds < 60, None, None, seconds, f"exit {code}: {process.output}")
    return rows
