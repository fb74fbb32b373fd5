"""The watchdog: ends a process that hangs, with the stacks of its threads in the log.

The main thread says what it does (`Activity`, through train/runtime/goodput.py), and a thread looks
at that once a second. Steps are dispatched without waiting for them, so a hanging one shows where
its metrics are read: the steps between two records of metrics are one activity. Time in which the
process was suspended does not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NoReturn

import ranges
from ranges import NonNegative, Positive
from train.runtime import processes
from train.terminal import interrupts, progress
from train.terminal.console import duration

TICK = 1.0  # seconds between two looks
PATIENCE = 5.0  # seconds in which the message has to be printed
MOST_DURATIONS = 99  # of an activity that are remembered
STEP = "steps"
# {activity: its text in messages}
TEXTS = {
    "init": "setting up",
    "restore": "restoring a checkpoint",
    "compile": "compiling",
    "data_wait": "reading a batch",
    "rollout": "a rollout",
    STEP: "the steps since the last record of metrics",
    "evaluate": "an evaluation",
    "checkpoint": "a save",
    "commit": "waiting for a save",
}


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """The end of a process that hangs (train/guards/watchdog.py): steps, a rollout, a batch, an
    evaluation or a save that takes too long. The supervisor restarts it.

    Attributes:
      factor: too long is this many times the median so far, and at least `least` seconds; 0 waits
        for ever.
      first: seconds for what happens for the first time, which includes reading the data and
        compiling.
    """

    factor: NonNegative = 20.0
    least: Positive = 300.0
    first: Positive = 3600.0

    def __post_init__(self):
        ranges.check(self, "watchdog.")


class Activity:
    """What the main thread does now, and how long it took before.

    Attributes:
      name: a key of `TEXTS`. durations: {name: seconds of the last times}.
    """

    def __init__(self):
        self.name = "init"
        self.durations: defaultdict[str, deque] = defaultdict(lambda: deque(maxlen=MOST_DURATIONS))
        self._changes = self._records = 0

    def enter(self, name: str) -> None:
        self._changes += name != self.name
        self.name = name

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A context that is an activity."""
        before, begun = self.name, time.monotonic()
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)
            self.durations[name].append(time.monotonic() - begun)

    def recorded(self, seconds: float) -> None:
        """Notes that the steps so far are done, and took `seconds` since the last such note."""
        self.durations[STEP].append(seconds)
        self._records += 1

    def key(self) -> tuple[str, int]:
        """What stays the same as long as the activity does; other ones do not interrupt steps."""
        return (STEP, self._records) if self.name == STEP else (self.name, self._changes)

    def steps(self) -> tuple[str, int]:
        """The `key` of the present steps."""
        return STEP, self._records


class Watchdog:
    """A context in which a thread watches an activity."""

    def __init__(self, config: WatchdogConfig, activity: Activity):
        self._factor, self._least, self._first = config.factor, config.least, config.first
        self._activity, self._ended = activity, threading.Event()

    def __enter__(self) -> Watchdog:
        if self._factor:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()

    def limit(self, name: str) -> float:
        """Seconds that an activity may take now."""
        durations = self._activity.durations
        if not (durations[name] and durations[STEP]):
            return self._first
        # Whatever waits for the devices may wait for the steps before it.
        usual = max(statistics.median(list(durations[key])) for key in (name, STEP))
        return max(self._least, self._factor * usual)

    def _watch(self) -> None:
        seconds: dict[tuple[str, int], float] = {}
        last = time.monotonic()
        while not self._ended.wait(TICK):
            now = time.monotonic()
            passed, last = min(now - last, 2 * TICK), now  # a longer tick was a suspended process
            key, steps = self._activity.key(), self._activity.steps()
            seconds = {k: seconds.get(k, 0.0) for k in (key, steps)}
            seconds[key] += passed
            if seconds[key] > (limit := self.limit(key[0])):
                end(key[0], seconds[key], limit)


def end(name: str, seconds: float, limit: float) -> NoReturn:
    """Writes the stacks of all threads, says what hangs, and ends the process."""
    # A terminal that nobody reads may hang too.
    last_resort = threading.Timer(PATIENCE, os._exit, (processes.HUNG,))
    last_resort.daemon = True
    last_resort.start()
    phase = progress.current()
    within = f" ({phase})" if phase not in ("", TEXTS[name]) else ""
    text = (
        f"{TEXTS[name]}{within} hangs: it has taken {duration(seconds)}, more than "
        f"{duration(limit)}"
    )
    log = os.path.realpath("/proc/self/fd/2")  # of commands the log, else standard error
    place = f"in {log}" if os.path.isfile(log) else "above"
    os.write(2, f"{text}. The stacks of all threads:\n".encode())
    faulthandler.dump_traceback(2, all_threads=True)
    interrupts.leave(
        f"error: {text}. The stacks of all threads are {place}. The same command resumes; "
        "watchdog.least and watchdog.first are the limits in seconds",
        processes.HUNG,
    )
