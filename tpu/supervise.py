"""Starts a run again while that helps, by its exit code (train/processes.py).

0 and an error that would come again end it. 42 (told to leave, saved) and 128 or more (a signal, a
lost peer, a lost machine) start the same command again, which goes on from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from etils import epath

from train.processes import PREEMPTED

INTERRUPTED = 130  # Ctrl-C


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
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Runs `attempt` until it ends for good.

    Args:
      attempt: runs once and returns its exit code. progress: steps that are safe.
      give_up_after: so many attempts in a row that gained no step end it.
      first_wait: seconds before the next attempt, doubled for each that gained nothing.

    Returns:
      The last exit code.
    """
    fruitless, number = 0, 1
    while True:
        before = progress()
        code = attempt()
        if not restarts(code):
            return code
        after = progress()
        fruitless = 0 if after > before else fruitless + 1
        what = "was told to leave and saved" if code == PREEMPTED else f"ended with {code}"
        if fruitless >= give_up_after:
            say(
                f"attempt {number} {what}; {fruitless} attempts in a row got no further than step "
                f"{after}: giving up"
            )
            return code
        wait = min(longest_wait, first_wait * 2**fruitless)
        say(f"attempt {number} {what}; step {after} is safe, starting again in {wait:g} s")
        sleep(wait)
        number += 1
