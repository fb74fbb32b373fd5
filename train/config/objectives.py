"""Settings of the losses and of reinforcement learning: parts of train/config/run.py."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import ranges
from ranges import (
    ConfigError,
    NonNegative,
    Positive,
    Range,
    SizeOr0,
)

# A share of labels taken to be wrong; at a half they say nothing.
Noise = Annotated[float, Range(0, 0.5, "[)")]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Attributes:
    z_loss: weight of log Z² in pretraining and SFT.
    chunk: positions of each row whose logits exist at once (train/vocabulary.py); 0 is all. Fewer
      take less memory and a second pass through the vocabulary head.
    load_balance, router_z: weights of a mixture's router losses there (`router_losses` in
      train/losses.py).
    margin, center, label_smoothing, ties: of reward models (`bradley_terry` in train/losses.py).
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


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimization (`preference_optimization` in train/losses.py).

    Attributes:
      beta: how dear it is to leave the reference. loss: `sigmoid` or `ipo`.
      label_smoothing: share of the rankings taken to be the wrong way round.
      average: log-probabilities of answers are means over their tokens, as IPO's authors advise
        where answers differ in length; else sums.
    """

    beta: Positive = 0.1
    loss: str = "sigmoid"
    label_smoothing: Noise = 0.0
    average: bool = False

    def __post_init__(self):
        ranges.check(self, "dpo.")
        if self.loss not in ("sigmoid", "ipo"):
            raise ConfigError(f"dpo.loss={self.loss!r:.80}; choose sigmoid or ipo")
