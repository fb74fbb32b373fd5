"""The estimate of a run's remaining time, from the seconds that its recent parts took.

Steps, rollouts, evaluations and checkpoints are measured separately and multiplied by the number of
each that is still to come, so that the estimate neither jumps at a rollout nor forgets an
evaluation. The clock is that of train/runtime/goodput.py, in which compilation and restoring are
parts of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping

RECENT = 20  # records of metrics, or events of one kind, that count
TRIMMED = 5  # records from which on the slowest is left out


def multiples(intervals: Iterable[int], steps: int) -> list[int]:
    """The steps at which something happens that has these intervals, and the last step."""
    every = (range(n, steps, n) for n in set(intervals) if n)
    return sorted({steps}.union(*every))


class TimeLeft:
    """The remaining time of a run.

    Args:
      start, steps: the step that it resumes from, and its last. rollouts: number of rollouts in
        between. evaluations, checkpoints: the steps after which there is one.
      work: n -> the work of the first n steps, which takes time in proportion.
    """

    def __init__(
        self, start: int, steps: int, rollouts: int, evaluations: list[int],
        checkpoints: list[int], work: Callable[[int], float] = float,
    ):  # fmt: skip
        self._work = work
        self._steps, self._evaluations, self._checkpoints = steps, evaluations, checkpoints
        self._done = start + 1  # the first step counts as compilation
        self._to_come = self._events(self._done, rollouts)
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._seconds: dict[str, deque[float]] = {n: deque(maxlen=RECENT) for n in self._to_come}

    def _events(self, step: int, rollouts: int) -> dict[str, int]:
        """{kind: number that is to come when `step` steps are done, before their evaluation}."""
        steps = {"evaluate": self._evaluations, "checkpoint": self._checkpoints}
        counts = {kind: len(at) - bisect_left(at, step) for kind, at in steps.items()}
        return counts | {"rollout": rollouts}

    def record(self, done: int, rollouts: int, seconds: Mapping[str, float]) -> float | None:
        """The seconds that are left when `done` steps are done; None before a step was measured.
        An event that was not measured yet counts nothing.

        It is called when the devices have finished these steps: the time of earlier calls would be
        that of their dispatch.

        Args:
          rollouts: number to come. seconds: {part of goodput.py: seconds since the last call}.
        """
        events = self._events(done, rollouts)
        for kind, count in events.items():
            if happened := self._to_come[kind] - count:
                self._seconds[kind].append(seconds[kind] / happened)
        if done > self._done:
            parts = sum(seconds[part] for part in ("step", "lost", "data_wait"))
            self._recent.append((self._work(done) - self._work(self._done), parts))
        self._done, self._to_come = done, events
        if not self._recent:
            return None
        recent = sorted(self._recent, key=lambda record: record[1] / record[0])
        if len(recent) >= TRIMMED:
            recent = recent[:-1]
        each = sum(s for _, s in recent) / sum(n for n, _ in recent)
        medians = {kind: sorted(s)[len(s) // 2] for kind, s in self._seconds.items() if s}
        others = sum(medians.get(kind, 0.0) * count for kind, count in events.items())
        return each * (self._work(self._steps) - self._work(done)) + others
