"""Restarts of a run, decided by its exit code (train/runtime/processes.py).

0 and a deterministic error end the run. 42 (preempted and saved), 74 (no checkpoint can be written)
and 128 or more (a signal, a lost peer, a lost machine) start the same command again, which resumes
from the last checkpoint. On SIGTERM the supervisor lets the run save and starts nothing more.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from train.runtime.processes import INTERRUPTED, PREEMPTED, UNSAVED


class StopSignal:
    """A context in which SIGTERM sets `requested` instead of ending the process.

    Attributes:
      requested: whether SIGTERM was received.
    """

    requested = False

    def __enter__(self):
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error):
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number, frame):
        del number, frame
        self.requested = True

    def sleep(self, seconds: float) -> None:
        """Sleeps until `seconds` have passed or SIGTERM is received."""
        requested = self.requested
        while seconds > 0 and self.requested == requested:
            time.sleep(min(seconds, 0.2))
            seconds -= 0.2


def restarts(code: int) -> bool:
    """Whether a run that ended with an exit code is started again."""
    return code != INTERRUPTED and (code in (PREEMPTED, UNSAVED) or code >= 128)


def supervise(
    attempt: Callable[[], int],
    progress: Callable[[], int],
    say: Callable[[str], None],
    *,
    give_up_after: int = 3,
    first_wait: float = 1.0,
    longest_wait: float = 300.0,
    stop: StopSignal | None = None,
) -> int:
    """Runs `attempt` until it ends for good.

    Args:
      attempt: runs once and returns its exit code. progress: returns the number of committed steps.
      give_up_after: number of attempts in a row without progress after which to stop.
      first_wait: seconds before the next attempt, doubled for each one without progress.
      stop: a request ends the supervision after the current attempt, which gets the signal too, or
        while it waits.

    Returns:
      The last exit code.
    """
    fruitless, number, stop = 0, 1, stop or StopSignal()
    while True:
        steps_before = progress()
        code = attempt()
        if not restarts(code):
            return code
        steps = progress()
        fruitless = 0 if steps > steps_before else fruitless + 1
        outcome = "saved and stopped" if code == PREEMPTED else f"ended with {code}"
        if stop.requested:
            say(f"attempt {number} {outcome}; step {steps} is saved; stopping as requested")
            return code
        if fruitless >= give_up_after:
            say(
                f"attempt {number} {outcome}; {fruitless} attempts in a row got no further than "
                f"step {steps}: giving up"
            )
            return code
        wait = min(longest_wait, first_wait * 2**fruitless)
        say(f"attempt {number} {outcome}; step {steps} is saved, restarting in {wait:g} s")
        stop.sleep(wait)
        if stop.requested:
            say("asked to stop before the next attempt")
            return code
        number += 1
