"""The cost of each step of a run, which its ramps change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model import sharding
from train.assembly import ramps
from train.assembly.run import Run
from train.measures.totals import Totals
from train.terminal import messages


class Costs:
    """Tokens, rows and FLOPs of every step.

    Attributes:
      first: those of the first step.
    """

    def __init__(self, run: Run):
        config = run.ctx.config
        self._levels = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
        self._costs = [
            Totals(
                messages.tokens_per_step(run, level.config), level.config.data.batch_size,
                messages.flops_per_step(run, level.config), uncounted=1,
            )
            for level in self._levels
        ]  # fmt: skip
        self._by_shape = {level.shape: cost for level, cost in zip(self._levels, self._costs)}
        self.first = self._costs[0]

    def of(self, batch: Mapping[str, Any]) -> Totals:
        """The cost of the step of a batch."""
        if len(self._levels) == 1:
            return self.first
        return self._by_shape[ramps.shape(batch)]

    def work(self, steps: int) -> float:
        """The FLOPs of the first steps, in units of the first one's."""
        parts = zip(self._levels, self._costs)
        return sum(level.among(steps) * (cost.flops / self.first.flops) for level, cost in parts)
