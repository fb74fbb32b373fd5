"""The checkpoints that stay when a newer one is committed, as preservation policies of Orbax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from orbax.checkpoint import checkpoint_managers


@dataclasses.dataclass
class Best:
    """Preserves the checkpoint with the best score; of equal ones, the newest.

    Orbax's own policy reads scores from a file of each checkpoint when the manager is created, and
    raises where one is damaged.

    Attributes:
      scores: {step: score}, which grows while the run trains. mode: `min` or `max`.
    """

    scores: Mapping[int, float]
    mode: str

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        del context
        sign = 1 if self.mode == "max" else -1
        scored = [c.step for c in checkpoints if c.step in self.scores]
        best = max(scored, key=lambda step: (sign * self.scores[step], step), default=None)
        return [c.step == best for c in checkpoints]


def policy(
    keep: int, keep_every: int, scores: Mapping[int, float], mode: str
) -> checkpoint_managers.PreservationPolicy:
    """The newest `keep`, those at multiples of `keep_every` unless it is 0, and the best."""
    policies = [checkpoint_managers.LatestN(keep), Best(scores, mode)]
    if keep_every:
        policies.append(checkpoint_managers.EveryNSteps(keep_every))
    return checkpoint_managers.AnyPreservationPolicy(policies)
