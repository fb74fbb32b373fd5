"""Settings of the losses: a part of train/config/run.py."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import ranges
from ranges import NonNegative, Range, SizeOr0

# The share of labels assumed to be wrong; at one half, labels carry no information.
Noise = Annotated[float, Range(0, 0.5, "[)")]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Settings of next-token prediction and of reward models.

    Attributes:
      z_loss: weight of log Z² in pretraining and SFT.
      chunk: positions of each row whose logits exist at once (train/vocabulary.py); 0 is all. Fewer
        take less memory and a second pass through the vocabulary head.
      load_balance, router_z: weights of the router losses of a mixture of experts in pretraining
        and SFT (`router_losses` in train/losses.py).
      margin: by which the better answer's reward is to be larger. center: weight of the penalty
        that keeps rewards near 0. label_smoothing: share of rankings assumed to be wrong.
        ties: weight of tied pairs. All are of reward models (`bradley_terry` in train/losses.py).
      pool: how a reward model's score is read, `last` or `mean` (`read_scores` in
        train/rl/rewards.py).
    """

    z_loss: NonNegative = 1e-4
    chunk: SizeOr0 = 0
    load_balance: NonNegative = 0.01
    router_z: NonNegative = 0.001
    pool: str = "last"
    margin: NonNegative = 0.0
    center: NonNegative = 0.01
    label_smoothing: Noise = 0.0
    ties: NonNegative = 0.0

    def __post_init__(self):
        ranges.check(self, "loss.")
