"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from etils import epath

import ranges
from ranges import ConfigError, Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences, reference
from train.objectives.base import Context, Stage


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """Settings of direct preference optimization (`pair_loss`).

    Attributes:
      beta: β, the strength of the KL penalty to the reference. loss: `sigmoid` or `ipo`.
      label_smoothing: ε, the share of rankings assumed to be reversed.
      average: whether log-probabilities of answers are means over their tokens, as IPO's authors
        advise for answers that differ in length, instead of sums.
    """

    beta: Positive = 0.1
    loss: str = "sigmoid"
    label_smoothing: Noise = 0.0
    average: bool = False

    def __post_init__(self):
        ranges.check(self, "dpo.")
        if self.loss not in ("sigmoid", "ipo"):
            raise ConfigError(f"dpo.loss={self.loss!r:.80}; choose sigmoid or ipo")


def pair_loss(
    rewards: jax.Array,
    rank: jax.Array,
    group: jax.Array,
    beta: float,
    kind: str,
    smoothing: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The loss summed over every pair in which candidate i is ranked before j. h = (r_i - r_j)/β
    is the difference of their log-ratios to the reference.

    `sigmoid`: -(1-ε)·log σ(βh) - ε·log σ(-βh) (Rafailov et al., eq. 7; ε: the conservative form of
    its appendix). `ipo`: (h - 1/(2β))² (Azar et al. 2023, arXiv:2310.12036, eq. 17), and ε mixes in
    the loss of the reversed pair.

    Args:
      rewards: [B, C] float32, the implicit rewards β·log(π/π_ref). rank, group, smoothing: as in
        `losses.over_pairs`.

    Returns:
      (sum over pairs, number of pairs).
    """
    loss_of_difference = {
        "sigmoid": lambda d: -jax.nn.log_sigmoid(d),
        "ipo": lambda d: ((d - 0.5) / beta) ** 2,
    }[kind]
    return losses.over_pairs(rewards, rank, group, loss_of_difference, smoothing)


def build(ctx: Context) -> Stage:
    """The stage of DPO."""
    settings, chunk, model = ctx.config.dpo, ctx.config.loss.chunk, ctx.models["policy"]

    def implicit_rewards(params, batch):
        """β·log(π(answer)/π_ref(answer)) of each candidate, [B, C] (Rafailov et al., section 4)."""
        logprobs = preferences.answer_logprobs(model, params, batch, chunk, settings.average)
        return settings.beta * (logprobs - batch["ref_logprobs"])

    loss = partial(pair_loss, beta=settings.beta, kind=settings.loss)
    return preferences.pairwise_stage(ctx, implicit_rewards, loss, settings.label_smoothing)


def precompute(
    ctx: Context, frozen: Mapping[str, Any], origins: Mapping[str, Any], workdir: epath.PathLike
) -> tuple[Context, dict[str, Any]]:
    """Adds the reference's log-probabilities, `ref_logprobs` [N, C], to the rows of both splits.

    Returns:
      (the context with those rows, the frozen models without the reference).

    Raises:
      ConfigError: no prompt has two answers to compare.
    """
    preferences.validate_comparisons(ctx)
    rows = preferences.splits(ctx.data)
    logprobs = reference.logprobs(ctx, frozen, origins, workdir, rows, ctx.config.dpo.average)
    rows = {name: split | {"ref_logprobs": logprobs[name]} for name, split in rows.items()}
    return preferences.with_splits(ctx, rows), reference.without(frozen)


OBJECTIVE = preferences.objective(
    build, DPOConfig, "DPO", "its log-probability relative to the reference",
    frozen=("reference",), precompute=precompute, precomputed=reference.precomputed,
)  # fmt: skip
