"""Signs that a run cannot learn, which end it: gradients that are not finite, rollouts in which all
answers score alike."""

from __future__ import annotations

# A run fails after so many updates in a row without a finite gradient, and at its end if a larger
# share of all its updates was left out.
MAX_SKIPPED, MAX_SKIPPED_SHARE = 20, 0.1


class SkippedUpdates:
    """Updates that were left out because their gradient was not finite.

    Args:
      count: in the steps up to `step`.
    """

    def __init__(self, count: int, step: int):
        self._count, self._step, self._in_a_row = count, step, 0

    def record(self, count: int, step: int) -> None:
        """Notes that `count` of the steps up to `step` were left out.

        Raises:
          FloatingPointError: the last `MAX_SKIPPED` were.
        """
        steps = step - self._step
        all_skipped = count - self._count == steps
        self._in_a_row = self._in_a_row + steps if all_skipped else 0
        self._count, self._step = count, step
        if self._in_a_row >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{self._in_a_row} updates up to step {step} had no finite gradient; lower the "
                "learning rate, or look at the data with the step's number"
            )


def check_skipped(count: int, steps: int) -> None:
    """Refuses the result of a run without `count` of its `steps` updates.

    Raises:
      FloatingPointError: they are more than `MAX_SKIPPED_SHARE`.
    """
    if count > MAX_SKIPPED_SHARE * steps:
        raise FloatingPointError(
            f"{count} of {steps} updates had no finite gradient and were left out, which "
            "is no run to go on from; lower the learning rate, or look at the data, and use a new "
            "--workdir"
        )
