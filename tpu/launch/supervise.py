"""Starts a run again while that helps, by its exit code (train/runtime/processes.py).

0 and an error that would come again end it. 42 (told to leave, saved) and 128 or more (a signal, a
lost peer, a lost machine) start the same command again, which goes on from the last checkpoint.
Told to leave itself, the supervisor lets the run save and starts nothing more.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from etils import epath

from train.runtime.processes import PREEMPTED

INTERRUPTED = 130  # Ctrl-C


class Told:
    """Whether this process was told to leave: `yes` once SIGTERM came while it was entered."""

    yes = False

    def __enter__(self):
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error):
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number, frame):
        del number, frame
        self.yes = True

    def sleep(self, seconds: float) -> None:
        """Sleeps; SIGTERM ends it early."""
        before = self.yes
        while seconds > 0 and self.yes == before:
            time.sleep(min(seconds, 0.2))
            seconds -= 0.2


def restarts(code: int) -> bool:
    return code != INTERRUPTED and (code == PREEMPTED or code >= 128)


def committed_steps(workdir) -> int:
    """Steps in the newest committed checkpoint; of a chain, the sum over its stages."""
    workdir, newest = epath.Path(workdir), {}
    for pattern in ("checkpoints/*", "*/checkpoints/*"):
        for path in workdir.glob(pattern) if workdir.exists() else ():
            if path.name.isdigit():  # one that is being written has a longer name
                newest[path.parent] = max(newest.get(path.parent, 0), int(path.name))
    return sum(newest.values())


def supervise(
    attempt: Callable[[], int],
    progress: Callable[[], int],
    say: Callable[[str], None],
    *,
    give_up_after: int = 3,
    first_wait: float = 1.0,
    longest_wait: float = 300.0,
    told: Told | None = None,
) -> int:
    """Runs `attempt` until it ends for good.

    Args:
      attempt: runs once and returns its exit code. progress: steps that are safe.
      give_up_after: so many attempts in a row that gained no step end it.
      first_wait: seconds before the next attempt, doubled for each that gained nothing.
      told: ends it with the attempt that is running, which sees the signal too, or while it waits.

    Returns:
      The last exit code.
    """
    fruitless, number, told = 0, 1, told or Told()
    while True:
        before = progress()
        code = attempt()
        if not restarts(code):
            return code
        after = progress()
        fruitless = 0 if after > before else fruitless + 1
        what = "was told to leave and saved" if code == PREEMPTED else f"ended with {code}"
        if told.yes:
            say(f"attempt {number} {what}; step {after} is safe, and so this ends, as it was told")
            return code
        if fruitless >= give_up_after:
            say(
                f"attempt {number} {what}; {fruitless} attempts in a row got no further than step "
                f"{after}: giving up"
            )
            return code
        wait = min(longest_wait, first_wait * 2**fruitless)
        say(f"attempt {number} {what}; step {after} is safe, starting again in {wait:g} s")
        told.sleep(wait)
        if told.yes:
            say("told to leave before the next attempt")
            return code
        number += 1
