"""A supervised run that is killed at random for long, and one beside it that is let alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fault_injection.lab import Lab, Process, newest, same
from local_runs import workers

SHORTEST, LONGEST = 20.0, 60.0  # seconds between two kills


class Soak(NamedTuple):
    """The result of a soak. memory and descriptors: [(hours, of the supervisor, of the worker)]."""

    kills: int
    seconds: float
    steps: int
    exact: bool
    memory: list[tuple[float, int, int]]
    descriptors: list[tuple[float, int, int]]


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def soak(lab: Lab, seconds: float, steps: int, say: Callable[[str], None]) -> Soak:
    """Kills the worker of a supervised run every 20 to 60 seconds until `seconds` have passed, lets
    it end, and compares it with a run of the same steps that was let alone.

    Args:
      steps: of the run, enough to last for `seconds`.
    """
    launcher = ["local", "--processes=1", "--supervise", "--give_up_after=5"]
    flags = (f"--config.steps={steps}", "--config.checkpoint.every=50",
             f"--config.log_every={max(steps // 200, 1)}")  # fmt: skip
    workdir = lab.directory / "soak"
    whole = lab.directory / "soak-whole"
    process = lab.start(workdir, "pretrain", *flags, launcher=launcher)
    other = lab.start(whole, "pretrain", *flags, launcher=launcher)
    begun, kills = time.monotonic(), 0
    memory, descriptors = [], []
    while time.monotonic() - begun < seconds and process.popen.poll() is None:
        time.sleep(lab.rng.uniform(SHORTEST, LONGEST))
        at_work = workers(workdir)
        if not at_work or process.popen.poll() is not None:
            continue
        hours, pid = (time.monotonic() - begun) / 3600, at_work[0]
        try:
            memory.append((hours, _memory(process.popen.pid), _memory(pid)))
            descriptors.append((hours, _descriptors(process.popen.pid), _descriptors(pid)))
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue
        kills += 1
        say(f"kill {kills} after {time.monotonic() - begun:.0f} s at step {newest(workdir)}")
    code = _wait(process)
    took = time.monotonic() - begun
    if code:
        raise RuntimeError(f"the run ended with {code}: {process.output[-2000:]}")
    if _wait(other):
        raise RuntimeError(f"the run that was let alone failed: {other.output[-2000:]}")
    return Soak(kills, took, steps, same(workdir, whole), memory, descriptors)


def _wait(process: Process) -> int:
    """The exit code of a run that may still train for long."""
    while process.popen.poll() is None:
        time.sleep(1)
    return process.wait()


def describe(result: Soak) -> str:
    """A paragraph about a soak."""
    first, *_, last = result.memory
    early, *_, late = result.descriptors
    mib = 2**20
    return (
        f"{result.kills} kills in {result.seconds / 60:.0f} minutes of a supervised run of "
        f"{result.steps:,} steps: {'bit for bit as' if result.exact else 'NOT as'} the run that "
        f"was let alone. Resident memory of the supervisor {first[1] / mib:.0f} MiB at the first "
        f"kill and {last[1] / mib:.0f} at the last, of the worker {first[2] / mib:.0f} and "
        f"{last[2] / mib:.0f}; open descriptors {early[1]} and {late[1]}, {early[2]} and {late[2]}."
    )
