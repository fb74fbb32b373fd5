"""GRPO: the clipped policy loss over rollouts, with advantages relative to the other answers to a
prompt (Shao et al. 2024, arXiv:2402.03300), and its variants."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp

import ranges
from ranges import ConfigError, Range
from train.objectives import policy_loss
from train.objectives.base import Context, Objective, Stage
from train.rl import advantages as adv
from train.rl.advantages import Episodes
from train.rl.rollout import RolloutSource
from train.rl.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Settings of GRPO alone; those shared with PPO are in `rl`.

    Attributes:
      group_size: number of answers to each prompt; `rl.rollout_batch` counts answers.
      baseline: of advantages, `mean` or `others`. scale: of advantages, `std` or `none`. Both as in
        `group_advantages` (train/rl/advantages.py).
      loss_mean: `token`, `sequence` or `constant` (`token_weights` in train/losses.py).
      ratio: the probability ratio is that of a `token` or of its `sequence` (GSPO; set the clip to
        a few 1e-4 then).
      max_draws: the most draws of prompts for a rollout, repeated until no group's scores are all
        equal (DAPO's dynamic sampling); 1 accepts every group.
    """

    group_size: Annotated[int, Range(2, 2**16)] = 8
    baseline: str = "mean"
    scale: str = "std"
    loss_mean: str = "sequence"
    ratio: str = "token"
    max_draws: Annotated[int, Range(1, 1000)] = 1

    def __post_init__(self):
        ranges.check(self, "grpo.")
        for name, choices in (
            ("baseline", ("mean", "others")),
            ("scale", ("std", "none")),
            ("loss_mean", ("token", "sequence", "constant")),
            ("ratio", ("token", "sequence")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"grpo.{name}={getattr(self, name)!r:.80}; choose {' or '.join(choices)}"
                )


def advantages(
    settings: GRPOConfig, episodes: Episodes
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """Group-relative advantages of a whole rollout, in which each group's rows are adjacent.

    Returns:
      (advantages [B, R], no further arrays, metrics), as `RolloutSource` takes them.
    """
    rewards, valid = jnp.sum(episodes.token_rewards, axis=1), episodes.valid
    size, baseline, scale = settings.group_size, settings.baseline, settings.scale
    by_answer = adv.group_advantages(rewards, size, baseline, scale, valid)
    scores, valid = (x.reshape(-1, size) for x in (episodes.scores, valid))
    metrics = {"equal_groups": jnp.mean(~adv.varies(scores, valid, axis=1))}
    return jnp.where(episodes.mask > 0, by_answer[:, None], 0.0), {}, metrics


def build(ctx: Context) -> Stage:
    """The stage of GRPO."""
    settings = ctx.config.grpo
    source = RolloutSource(
        ctx, Sampler(ctx), partial(advantages, settings), settings.group_size, settings.max_draws
    )
    sequence = settings.ratio == "sequence"
    return policy_loss.policy_stage(ctx, source, settings.loss_mean, sequence)


def validate(config: Any) -> None:
    """Validates the settings of a run (`policy_loss.validate`), and that groups divide rollouts."""
    policy_loss.validate(config)
    for name in ("rollout_batch", "sample_batch"):
        if (answers := getattr(config.rl, name)) % config.grpo.group_size:
            raise ConfigError(
                f"rl.{name}={answers} counts answers, and is not a multiple "
                f"of grpo.group_size={config.grpo.group_size}"
            )


def method(config: Any) -> str:
    """The name of the method: RLOO is a case of GRPO (configs/grpo.py)."""
    rloo = config.grpo.baseline == "others" and config.grpo.scale == "none"
    return "RLOO" if rloo else "GRPO"


OBJECTIVE = Objective(
    schema="prompt",
    trainable=("policy",),
    build=build,
    origins={"policy": ("policy",)},
    frozen=("reference",),
    optional=("reward", "judge"),
    required=("policy",),
    settings=GRPOConfig,
    validate=validate,
    divisible=policy_loss.divisible,
    group_size=lambda config: config.grpo.group_size,
    report=policy_loss.report(method),
)
