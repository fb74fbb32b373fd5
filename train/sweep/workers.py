"""Runs of a sweep in several processes of this machine (`--parallel`).

The command starts itself again, N times; each of these workers takes the next run that no other has
taken. A worker leaves when the command that started it is gone, at whatever moment that is: its run
resumes with the next one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from train.runtime import processes
from train.sweep import results
from train.sweep.metric import Metric
from train.sweep.results import FAILED, SETTLED, Outcome
from train.sweep.runner import Runner, say
from train.sweep.trials import Run
from train.terminal.progress import Progress, phase

WORKER = "SEEDPOD_SWEEP_WORKER"  # FOLDER/N: the folder of claims, and the worker's number
LOOK = 0.2  # seconds between two looks at the workers


def this_worker() -> Path | None:
    """FOLDER/N of this process; None in a command that a user typed."""
    return Path(os.environ[WORKER]) if WORKER in os.environ else None


def work(worker: Path, runner: Runner, runs: Sequence[Run]) -> None:
    """Runs, as a worker, what no other worker has taken."""
    processes.leave_with_parent()
    for number, run in enumerate(runs, 1):
        with contextlib.suppress(FileExistsError):
            (worker.parent / f"run-{number}").touch(exist_ok=False)
            runner.run(run, number)


def run_parallel(count: int, workdir: epath.Path, runs: Sequence[Run], metric: Metric) -> None:
    """Runs what has not ended in `count` workers, and prints the end of each run.

    Raises:
      processes.Stopped: the process was asked to stop, and the runs at work are saved.
    """
    begun = {run.name: results.read_outcome(run.workdir) for run in runs}
    left = [r for r in runs if (o := begun[r.name]) is None or o["status"] not in SETTLED]
    with tempfile.TemporaryDirectory(prefix="seedpod-sweep-") as folder:
        children = [
            _start(Path(folder) / str(n), workdir / f"worker-{n}.txt")
            for n in range(1, min(count, len(left)) + 1)
        ]
        try:
            _watch(children, runs, left, begun, metric)
        except (KeyboardInterrupt, processes.Stopped) as stopped:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
            message = "the runs at work are saved; the same command resumes there"
            raise processes.Stopped(message) from stopped
        taken = {int(path.name.removeprefix("run-")) for path in Path(folder).glob("run-*")}
    codes = {child.returncode for child in children} - {0, 1}
    for number, run in enumerate(runs, 1):
        if run in left and number in taken and results.read_outcome(run.workdir) is None:
            reason = f"its process ended with code {', '.join(map(str, sorted(codes)))}"
            results.write_outcome(run.workdir, Outcome(status=FAILED, reason=reason))
            say(f"{number}/{len(runs)} ", run, metric)


def _start(worker: Path, log: epath.Path) -> subprocess.Popen:
    """A worker, with its output in a file."""
    with open(log, "a") as output:
        return subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {WORKER: str(worker)},
        )  # fmt: skip


def _watch(
    children: Sequence[subprocess.Popen], runs: Sequence[Run], left: Sequence[Run],
    begun: dict[str, Outcome | None], metric: Metric,
) -> None:  # fmt: skip
    """Waits for the workers, and prints the end of each run.

    Raises:
      processes.Stopped: the process was asked to stop.
    """
    waiting = {number: run for number, run in enumerate(runs, 1)}
    with Progress("sweep"), phase("running", len(left)) as progress:
        while True:
            working = any(child.poll() is None for child in children)
            for number, run in list(waiting.items()):
                outcome = results.read_outcome(run.workdir)
                if outcome and (run not in left or outcome != begun[run.name] or not working):
                    say(f"{number}/{len(runs)} ", waiting.pop(number), metric)
            progress.count(sum(run not in waiting.values() for run in left))
            if not working:
                return
            if processes.asked_to_stop():
                raise processes.Stopped
            time.sleep(LOOK)
