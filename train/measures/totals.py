"""Tokens, rows and FLOPs of a run so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Totals:
    """Sums over the updates that led to the present weights, those of a fork's parent included.

    What a run has lost, by a fault or by going back, is not in them; goodput.json has its time.

    Attributes:
      tokens: of the batches, padding included. rows: of the batches. flops: of updates and rollouts
        (train/runtime/flops.py).
    """

    tokens: int = 0
    rows: int = 0
    flops: float = 0.0

    @classmethod
    def restored(
        cls, meta: Mapping[str, Any], step: int, per_step: Totals, per_rollout: float
    ) -> Totals:
        """The sums after `step` steps, saved in a checkpoint's meta. A checkpoint of an earlier
        version has none: then those of as many steps and rollouts as it has taken."""
        if saved := meta.get("totals"):
            return cls(**saved)
        rollouts = meta.get("rollouts", {}).get("taken", 0)
        flops = step * per_step.flops + rollouts * per_rollout
        return cls(step * per_step.tokens, step * per_step.rows, flops)

    def add(self, other: Totals) -> None:
        """Adds the cost of a step or of a rollout."""
        self.tokens += other.tokens
        self.rows += other.rows
        self.flops += other.flops

    def values(self) -> dict[str, Any]:
        """{metric: value}, also for a checkpoint's meta."""
        return dataclasses.asdict(self)
