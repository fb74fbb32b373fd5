"""Settings of the numerical guard."""

from __future__ import annotations

import dataclasses

import ranges
from ranges import Count, CountOr0, NonNegative


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """The numerical guard (train/guards): an update is not applied if its loss or gradient is not
    finite, and taken back, with those since the last checkpoint, if its new weights are not.

    Attributes:
      in_a_row: number of updates in a row that are not applied before the run goes back to its last
        good checkpoint and past the data since. go_back: the most times that it does; 0 ends the
        run instead.
      spike: a loss above the median of the last 64 applied ones by more than this many times their
        median absolute deviation is such an update too; 0 lets every finite loss pass.
    """

    in_a_row: Count = 20
    go_back: CountOr0 = 3
    spike: NonNegative = 0.0

    def __post_init__(self):
        ranges.check(self, "guard.")
