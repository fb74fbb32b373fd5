"""SimPO: the average log-probability of an answer as reward, and a target margin between answers;
no reference (Meng et al. 2024, arXiv:2405.14734)."""

from __future__ import annotations

import dataclasses

import jax

import ranges
from ranges import NonNegative, Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences
from train.objectives.base import Context, Objective, Stage


@dataclasses.dataclass(frozen=True)
class SimPOConfig:
    """Settings of SimPO (`pair_loss`).

    Attributes:
      beta: β, the scale of the reward. gamma: γ, the target margin; the authors advise β of 2 to
        10 and γ/β of 0.3 to 0.5.
      label_smoothing: ε, the share of rankings assumed to be the wrong way round.
    """

    beta: Positive = 2.0
    gamma: NonNegative = 1.0
    label_smoothing: Noise = 0.0

    def __post_init__(self):
        ranges.check(self, "simpo.")


def pair_loss(rewards, rank, group, gamma: float, smoothing):
    """-log σ(r_i - r_j - γ) over every pair in which candidate i is ranked before j (eq. 6).

    Args:
      rewards: [B, C] float32, β/|y|·log π(y|x). rank, group, smoothing: as in `losses.over_pairs`.

    Returns:
      (sum over pairs, number of pairs).
    """

    def one(difference):
        return -jax.nn.log_sigmoid(difference - gamma)

    return losses.over_pairs(rewards, rank, group, one, smoothing)


def build(ctx: Context) -> Stage:
    settings, chunk, model = ctx.config.simpo, ctx.config.loss.chunk, ctx.models["policy"]

    def score(params, batch):
        return settings.beta * preferences.answer_logprobs(model, params, batch, chunk, True)

    def loss(rewards, batch):
        noise = losses.label_noise(settings.label_smoothing, batch["doubt"])
        return pair_loss(rewards, batch["rank"], batch["group"], settings.gamma, noise)

    return preferences.pairwise_stage(ctx, score, loss)


OBJECTIVE = Objective(
    schema="preference",
    trainable=("policy",),
    build=build,
    origins={"policy": ("policy",)},
    required=("policy",),
    settings=SimPOConfig,
    check=preferences.check_own_prompts,
    prepare=preferences.compare,
    report=preferences.report("SimPO", "its average log-probability"),
)
