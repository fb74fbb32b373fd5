"""Failed saves: counted, retried after a pause that doubles, given up after several in a row."""

from __future__ import annotations

import time

from train.runtime import processes

MOST = 8  # failures in a row after which a run ends
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; two minutes in all before the last attempt


class Failures:
    """The failed saves of an attempt.

    Attributes:
      in_a_row: number since the last save that succeeded. total: of all.
    """

    def __init__(self):
        self.in_a_row = self.total = 0
        self._step, self._reason, self._next = 0, "", 0.0

    def add(self, step: int, reason: str) -> str:
        """Counts the failure of the save of `step`; returns a message."""
        self.in_a_row, self.total = self.in_a_row + 1, self.total + 1
        self._step, self._reason = step, reason
        pause = min(FIRST_PAUSE * 2 ** (self.in_a_row - 1), LONGEST_PAUSE)
        self._next = time.monotonic() + pause
        again = f"retrying in {pause:g} s" if self.in_a_row < MOST else "giving up"
        return (
            f"WARNING: step {step} could not be saved ({reason}), failure {self.in_a_row} of "
            f"{MOST} in a row; {again}"
        )

    def check(self, intact: str) -> None:
        """Ends the run after `MOST` failures in a row.

        Args:
          intact: a text about what stays saved.

        Raises:
          processes.Unsaved: that many have failed.
        """
        if self.in_a_row >= MOST:
            raise processes.Unsaved(
                f"{self.in_a_row} saves in a row have failed, the last at step {self._step} "
                f"({self._reason}); {intact}. Make room, or repair the disk or the network, and "
                "run the same command to resume"
            )

    def clear(self) -> None:
        """Notes that a save has succeeded."""
        self.in_a_row = 0

    def seconds_left(self) -> float:
        """Seconds until the next attempt, 0 if it is due."""
        return max(0.0, self._next - time.monotonic())
