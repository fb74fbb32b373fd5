"""The check that ends a run whose gradients are not finite."""

from __future__ import annotations

# A run fails after `MAX_SKIPPED` updates in a row without a finite gradient, and at its end if more
# than `MAX_SKIPPED_SHARE` of all its updates were skipped.
MAX_SKIPPED, MAX_SKIPPED_SHARE = 20, 0.1


class SkippedUpdates:
    """Counter of the updates that were skipped because their gradient was not finite.

    Args:
      count: number of them in the steps up to `step`.
    """

    def __init__(self, count: int, step: int):
        self._count, self._step, self._in_a_row = count, step, 0

    def record(self, count: int, step: int) -> None:
        """Records that `count` of the steps up to `step` were skipped.

        Raises:
          FloatingPointError: the last `MAX_SKIPPED` were skipped.
        """
        steps = step - self._step
        all_skipped = count - self._count == steps
        self._in_a_row = self._in_a_row + steps if all_skipped else 0
        self._count, self._step = count, step
        if self._in_a_row >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{self._in_a_row} updates up to step {step} had no finite gradient; lower the "
                "learning rate, or inspect the data of that step"
            )


def check_skipped(count: int, steps: int) -> None:
    """Refuses the result of a run that skipped `count` of its `steps` updates.

    Raises:
      FloatingPointError: these are more than `MAX_SKIPPED_SHARE`.
    """
    if count > MAX_SKIPPED_SHARE * steps:
        raise FloatingPointError(
            f"{count} of {steps} updates had no finite gradient and were skipped, too many "
            "to continue from; lower the learning rate, or inspect the data, and use a new "
            "--workdir"
        )
