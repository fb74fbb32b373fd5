"""ORPO: fine-tuning on the preferred answer plus a penalty on the odds ratio of both answers, in
one stage and without a reference (Hong et al. 2024, arXiv:2403.07691)."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

import ranges
from ranges import Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences
from train.objectives.base import Context, Stage


@dataclasses.dataclass(frozen=True)
class ORPOConfig:
    """Settings of ORPO (`pair_loss`).

    Attributes:
      odds_weight: λ, the weight of the odds ratio's loss relative to that of fine-tuning.
      label_smoothing: ε, the share of rankings assumed to be reversed.
    """

    odds_weight: Positive = 0.1
    label_smoothing: Noise = 0.0

    def __post_init__(self):
        ranges.check(self, "orpo.")


def log_odds(logprobs: jax.Array) -> jax.Array:
    """log(P/(1 - P)), given log P. log P is at most -1e-6, so that the odds stay finite."""
    logprobs = jnp.minimum(logprobs, -1e-6)
    return logprobs - jnp.log(-jnp.expm1(logprobs))


def pair_loss(
    logprobs: jax.Array,
    rank: jax.Array,
    group: jax.Array,
    odds_weight: float,
    smoothing: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """-log P_i - λ·log σ(log odds_i - log odds_j) over every pair in which candidate i is ranked
    before j (eqs. 6 and 7); the first term is fine-tuning on the preferred answer.

    Args:
      logprobs: [B, C] float32, log P = log π(y|x)/|y| (eq. 3). rank, group, smoothing: as in
        `losses.over_pairs`.

    Returns:
      (sum over pairs, number of pairs).
    """

    def loss_of_difference(difference):
        return -jax.nn.log_sigmoid(difference)

    ratio, count = losses.over_pairs(log_odds(logprobs), rank, group, loss_of_difference, smoothing)
    noise = jnp.broadcast_to(smoothing, rank.shape)[:, :, None]
    nats = (noise - 1) * logprobs[:, :, None] - noise * logprobs[:, None, :]
    return losses.masked_sum(nats, losses.pairs(rank, group)) + odds_weight * ratio, count


def build(ctx: Context) -> Stage:
    """The stage of ORPO."""
    settings, chunk, model = ctx.config.orpo, ctx.config.loss.chunk, ctx.models["policy"]

    def score(params, batch):
        return preferences.answer_logprobs(model, params, batch, chunk, True)

    loss = partial(pair_loss, odds_weight=settings.odds_weight)
    return preferences.pairwise_stage(ctx, score, loss, settings.label_smoothing)


OBJECTIVE = preferences.objective(
    build, ORPOConfig, "ORPO", "its average log-probability", precompute=preferences.only_validate
)
