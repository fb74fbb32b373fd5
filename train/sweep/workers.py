"""Runs of a sweep in several processes of this machine (`--parallel`).

The command starts itself again, N times, each time on a share of the cores; each of these workers
takes runs that no other has taken, one after the other. A program is compiled by one worker: the
others take runs of other programs, or wait for it. A worker leaves when the command that started it
is gone, at whatever moment that is: its run resumes with the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from etils import epath

from train.runtime import processes
from train.sweep import results
from train.sweep.metric import Metric
from train.sweep.programs import Count, constants
from train.sweep.results import FAILED, SETTLED, Outcome
from train.sweep.runner import Runner, say
from train.sweep.trials import Run
from train.terminal.progress import Progress, phase

WORKER = "SEEDPOD_SWEEP_WORKER"  # FOLDER/N: the folder of claims, and the worker's number
LOOK = 0.2  # seconds between two looks at the workers


def this_worker() -> Path | None:
    """FOLDER/N of this process; None in a command that a user typed."""
    return Path(os.environ[WORKER]) if WORKER in os.environ else None


def work(worker: Path, runner: Runner, runs: Sequence[Run], count: Count) -> None:
    """Runs, as a worker, what no other worker has taken."""
    processes.leave_with_parent()
    folder, own = worker.parent, set[Path]()
    left = {number: folder / _program(run) for number, run in enumerate(runs, 1)}
    while left:
        number = min(left, key=lambda n: (left[n] not in own, left[n].exists(), n))
        program, lock = left[number], None
        if not program.exists() and (lock := _begin(program)) is None:
            continue  # another worker has just begun with it
        del left[number]
        with contextlib.suppress(FileExistsError):
            (folder / f"run-{number}").touch(exist_ok=False)
            if program not in own and not lock:
                _wait(program)
            own.add(program)
            runner.steps.compiled = functools.partial(_release, lock)
            runner.run(runs[number - 1], number)
        _release(lock)  # that of a run without steps
    (folder / f"compiled-{worker.name}").write_text(str(len(count.compiled)))


def _program(run: Run) -> str:
    """A name of the program of a run's step."""
    return "program-" + hashlib.sha256(repr(constants(run.config)).encode()).hexdigest()[:16]


def _begin(program: Path) -> IO | None:
    """A lock on a new file for a program, or None if there is one. The system takes the lock from a
    process that ends."""
    lock = open(program.with_suffix(f".{os.getpid()}"), "w")  # noqa: SIM115 it stays open
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.link(lock.name, program)
    except FileExistsError:
        _release(lock)
        return None
    return lock


def _release(lock: IO | None) -> None:
    if lock and not lock.closed:
        fcntl.flock(lock, fcntl.LOCK_UN)  # before it is closed, as children may have it open
        lock.close()


def _wait(program: Path) -> None:
    """Waits until another worker has compiled a program."""
    with open(program) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


def run_parallel(
    count: int, workdir: epath.Path, runs: Sequence[Run], metric: Metric
) -> int | None:
    """Runs what has not ended in `count` workers, and prints the end of each run; returns the
    number of programs that they compiled, None if it is not known.

    Raises:
      processes.Stopped: the process was asked to stop, and the runs at work are saved.
    """
    begun = {run.name: results.read_outcome(run.workdir) for run in runs}
    left = [r for r in runs if (o := begun[r.name]) is None or o["status"] not in SETTLED]
    with tempfile.TemporaryDirectory(prefix="seedpod-sweep-") as folder:
        children = [
            _start(Path(folder) / str(n), workdir / f"worker-{n}.txt", share)
            for n, share in zip(range(1, len(left) + 1), shares(count))
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
        compiled = [int(path.read_text()) for path in Path(folder).glob("compiled-*")]
    codes = {child.returncode for child in children} - {0, 1}
    for number, run in enumerate(runs, 1):
        if run in left and number in taken and results.read_outcome(run.workdir) is None:
            reason = f"its process ended with code {', '.join(map(str, sorted(codes)))}"
            results.write_outcome(run.workdir, Outcome(status=FAILED, reason=reason))
            say(f"{number}/{len(runs)} ", run, metric)
    return sum(compiled) if len(compiled) == len(children) else None


def shares(count: int) -> list[list[int]]:
    """The cores of each of `count` workers, equally many; [] where the system binds no process.

    The number of threads decides where XLA cuts a sum, so it must not depend on what is left to do.
    """
    if not hasattr(os, "sched_setaffinity"):
        return [[]] * count
    cores = sorted(os.sched_getaffinity(0))
    each = max(len(cores) // count, 1)
    return [[cores[(n * each + i) % len(cores)] for i in range(each)] for n in range(count)]


def _start(worker: Path, log: epath.Path, cores: Sequence[int]) -> subprocess.Popen:
    """A worker, with its output in a file."""
    with open(log, "a") as output:
        child = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {WORKER: str(worker)},
        )  # fmt: skip
    if cores:  # its threads, which do not exist yet, inherit them
        os.sched_setaffinity(child.pid, cores)
    return child


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
