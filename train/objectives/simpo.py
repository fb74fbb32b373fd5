"""SimPO: the average log-probability of an answer as its reward, with a target margin between
answers and without a reference (Meng et al. 2024, arXiv:2405.14734)."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax

import ranges
from ranges import NonNegative, Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences
from train.objectives.base import Context, Stage


@dataclasses.dataclass(frozen=True)
class SimPOConfig:
    """Settings of SimPO (`pair_loss`).

    Attributes:
      beta: β, the scale of the reward. gamma: γ, the target margin; the authors advise β of 2 to
        10 and γ/β of 0.3 to 0.5.
      label_smoothing: ε, the share of rankings assumed to be reversed.
    """

    beta: Positive = 2.0
    gamma: NonNegative = 1.0
    label_smoothing: Noise = 0.0

    def __post_init__(self):
        ranges.check(self, "simpo.")


def pair_loss(
    rewards: jax.Array,
    rank: jax.Array,
    group: jax.Array,
    gamma: float,
    smoothing: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """-log σ(r_i - r_j - γ) over every pair in which candidate i is ranked before j (eq. 6).

    Args:
      rewards: [B, C] float32, β/|y|·log π(y|x). rank, group, smoothing: as in `losses.over_pairs`.

    Returns:
      (sum over pairs, number of pairs).
    """

    def loss_of_difference(difference):
        return -jax.nn.log_sigmoid(difference - gamma)

    return losses.over_pairs(rewards, rank, group, loss_of_difference, smoothing)


def build(ctx: Context) -> Stage:
    """The stage of SimPO."""
    settings, chunk, model = ctx.config.simpo, ctx.config.loss.chunk, ctx.models["policy"]

    def score(params, batch):
        return settings.beta * preferences.answer_logprobs(model, params, batch, chunk, True)

    loss = partial(pair_loss, gamma=settings.gamma)
    return preferences.pairwise_stage(ctx, score, loss, settings.label_smoothing)


OBJECTIVE = preferences.objective(
    build, SimPOConfig, "SimPO", "its average log-probability", precompute=preferences.only_validate
)
