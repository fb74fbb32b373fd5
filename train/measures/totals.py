"""Tokens, rows, examples and FLOPs of a run so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.objectives.base import Source


@dataclasses.dataclass
class Totals:
    """Sums over the updates that led to the present weights, those of a fork's parent included.

    What a run has lost, by a fault or by going back, is not in them; goodput.json has its time.

    Attributes:
      tokens: of the batches, padding included. rows: of the batches. flops: of updates and rollouts
        (train/runtime/flops.py).
      examples: of the batches; None if that is unknown, as in a run that an earlier version began.
      uncounted: the last updates, whose examples are not in `examples` yet.
    """

    tokens: int = 0
    rows: int = 0
    flops: float = 0.0
    examples: int | None = 0
    uncounted: int = 0

    @classmethod
    def restored(
        cls, meta: Mapping[str, Any], step: int, per_step: Totals, per_rollout: float
    ) -> Totals:
        """The sums after `step` steps, saved in a checkpoint's meta. A checkpoint of an earlier
        version has none: then those of as many steps and rollouts as it has taken."""
        if saved := meta.get("totals"):
            return cls(**{"examples": None} | saved)
        rollouts = meta.get("rollouts", {}).get("taken", 0)
        flops = step * per_step.flops + rollouts * per_rollout
        examples = None if step else 0
        return cls(step * per_step.tokens, step * per_step.rows, flops, examples)

    def add(self, other: Totals) -> None:
        """Adds the cost of a step or of a rollout."""
        self.tokens += other.tokens
        self.rows += other.rows
        self.flops += other.flops
        self.uncounted += other.uncounted

    def values(self, source: Source, s: dict[str, Any]) -> dict[str, Any]:
        """{metric: value}, also for a checkpoint's meta.

        Args:
          source, s: the source of the run's batches, and its present state.
        """
        if self.uncounted and self.examples is not None:
            new = source.examples(s, self.uncounted)
            self.examples = None if new is None else self.examples + new
        self.uncounted = 0
        values = {"tokens": self.tokens, "rows": self.rows, "examples": self.examples}
        return {k: v for k, v in (values | {"flops": self.flops}).items() if v is not None}
