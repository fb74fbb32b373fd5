"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

import dataclasses

import jax

import ranges
from ranges import ConfigError, Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences, reference
from train.objectives.base import Context, Objective, Stage


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """Settings of direct preference optimization (`pair_loss`).

    Attributes:
      beta: β, the strength of the KL penalty to the reference. loss: `sigmoid` or `ipo`.
      label_smoothing: ε, the share of rankings assumed to be the wrong way round.
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


def pair_loss(rewards, rank, group, beta: float, kind: str, smoothing):
    """The loss over every pair in which candidate i is ranked before j; h = (r_i - r_j)/β is the
    difference of their log-ratios to the reference.

    `sigmoid`: -(1-ε)·log σ(βh) - ε·log σ(-βh) (Rafailov et al., eq. 7; ε: its appendix's
    conservative form). `ipo`: (h - 1/(2β))² (Azar et al. 2023, arXiv:2310.12036, eq. 17), in which
    ε mixes in the pair the other way round.

    Args:
      rewards: [B, C] float32, implicit: β·log(π/π_ref). rank, group, smoothing: as in
        `losses.over_pairs`.

    Returns:
      (sum over pairs, number of pairs).
    """
    one = {
        "sigmoid": lambda d: -jax.nn.log_sigmoid(d),
        "ipo": lambda d: ((d - 0.5) / beta) ** 2,
    }[kind]
    return losses.over_pairs(rewards, rank, group, one, smoothing)


def build(ctx: Context) -> Stage:
    settings, chunk, model = ctx.config.dpo, ctx.config.loss.chunk, ctx.models["policy"]

    def implicit_rewards(params, batch):
        """β·log(π(answer)/π_ref(answer)) of each candidate, [B, C] (Rafailov et al., section 4)."""
        logprobs = preferences.answer_logprobs(model, params, batch, chunk, settings.average)
        return settings.beta * (logprobs - batch["ref_logprobs"])

    def loss(rewards, batch):
        noise = losses.label_noise(settings.label_smoothing, batch["doubt"])
        args = batch["rank"], batch["group"], settings.beta, settings.loss
        return pair_loss(rewards, *args, noise)

    return preferences.pairwise_stage(ctx, implicit_rewards, loss)


def prepare(ctx: Context, frozen, origins, workdir):
    """Adds the reference's log-probabilities, `ref_logprobs` [N, C], to the rows of both splits.

    Returns:
      (the context with those rows, frozen models without the reference).

    Raises:
      ConfigError: no prompt has two answers to compare.
    """
    preferences.check_comparisons(ctx)
    rows = {"train": ctx.data.train, "heldout": ctx.data.heldout}
    measured = reference.logprobs(ctx, frozen, origins, workdir, rows, ctx.config.dpo.average)
    added = {name: split | {"ref_logprobs": measured[name]} for name, split in rows.items()}
    data = dataclasses.replace(ctx.data, **added)
    return dataclasses.replace(ctx, data=data), reference.without(frozen)


OBJECTIVE = Objective(
    schema="preference",
    trainable=("policy",),
    build=build,
    origins={"policy": ("policy",)},
    frozen=("reference",),
    required=("policy",),
    settings=DPOConfig,
    check=preferences.check_own_prompts,
    prepare=prepare,
    prepared=reference.prepared,
    report=preferences.report("DPO", "its log-probability relative to the reference"),
)
