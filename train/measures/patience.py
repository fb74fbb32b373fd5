"""Early stopping: a run ends by itself after `evaluate.patience` evaluations in a row without a
better value of its metric.

The evaluations are those in metrics.jsonl, so a run that has ended stays ended when it is resumed,
and goes on if it is resumed with more patience.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# The metrics of evaluations that say whether a run improves, the first one that an evaluation has,
# and which of their values are better; in the order in which the terminal shows them.
HEADLINES = {
    "loss": "min",
    "bits_per_byte": "min",
    "accuracy/overall": "max",
    "score": "max",
    "win_rate": "max",
}


class Patience:
    """The best value of a run's metric, and the evaluations since.

    Args:
      config: a RunConfig. records: those of the evaluations so far, on process 0; the other
        processes learn from it. All processes make a `Patience`, and add the same values.

    Attributes:
      best: the best value, NaN before the first. best_step: its step. count: the number of
        evaluations since. metric: the name of the metric; "" before its first value.
    """

    def __init__(self, config: Any, records: Iterable[Mapping[str, Any]]):
        self._most, self._chosen = config.evaluate.patience, config.checkpoint.best
        self._mode = config.checkpoint.best_mode
        self.best, self.best_step, self.count, self.metric, self._step = math.nan, 0, 0, "", -1
        for record in records:
            self.add(record["step"], record)
        if self._most and jax.process_count() > 1:
            own = np.array([self.best, self.best_step, self.count, self._step], np.float64)
            # As bytes: JAX would round float64 to float32.
            sent = multihost_utils.broadcast_one_to_all(np.frombuffer(own.tobytes(), np.uint8))
            own = np.frombuffer(np.asarray(sent, np.uint8).tobytes(), np.float64)
            self.best, (self.best_step, self.count, self._step) = own[0], map(int, own[1:])

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Counts the evaluation after `step` steps, unless it lacks the metric, or repeats that of
        the step before it in metrics.jsonl."""
        metric = self._chosen or next((name for name in HEADLINES if name in values), "")
        if step == self._step or metric not in values:
            return
        self.metric, self._step = metric, step
        mode = self._mode if self._chosen else HEADLINES[metric]
        value = values[metric] if values[metric] is not None else math.nan  # null in the file
        better = value < self.best if mode == "min" else value > self.best
        if better or (math.isnan(self.best) and math.isfinite(value)):
            self.best, self.best_step, self.count = value, step, 0
        else:
            self.count += 1

    @property
    def ended(self) -> bool:
        """Whether the run ends."""
        return 0 < self._most <= self.count

    def note(self) -> dict[str, Any]:
        """The record of the end in metrics.jsonl."""
        return {
            "metric": self.metric, "best": self.best, "best_step": self.best_step,
            "evaluations": self.count,
        }  # fmt: skip

    def words(self, step: int, steps: int) -> list[str]:
        """The lines of the terminal about the end."""
        best = f"{self.best:.4f} at step {self.best_step}" if math.isfinite(self.best) else "none"
        return [
            f"  the run ends at step {step} of {steps}: {self.metric or 'its metric'} has not "
            f"improved in {self.count} evaluations (best {best})",
            f"  train it further: the same command with --config.evaluate.patience={self.count * 2}"
            ", or 0",
        ]
