"""GRPO: the clipped policy loss over rollouts, with advantages relative to the other answers to a
prompt (Shao et al. 2024, arXiv:2402.03300), and its variants."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated

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
    """GRPO's own settings; the rest is `rl`.

    Attributes:
      group_size: answers to a prompt; `rl.rollout_batch` counts answers.
      baseline, scale: of advantages, `mean` or `others`, `std` or `none` (`group_advantages` in
        train/rl/advantages.py).
      loss_mean: over a `token`, `sequence` or `constant` (`token_weights` in train/losses.py).
      ratio: a `token`'s or its `sequence`'s (GSPO; clip to a few 1e-4 then).
      max_draws: draws of prompts a rollout may take until no group's scores are all equal (DAPO's
        dynamic sampling); 1 takes them as they come.
    """

    group_size: Annotated[int, Range(2, 2**16)] = 8
    baseline: str = "mean"
    scale: str = "std"
    loss_mean: str = "sequence"
    ratio: str = "token"
    max_draws: Annotated[int, Range(1, 1000)] = 1

    def __post_init__(self):
        ranges.check(self, "grpo.")
        for name, known in (
            ("baseline", ("mean", "others")),
            ("scale", ("std", "none")),
            ("loss_mean", ("token", "sequence", "constant")),
            ("ratio", ("token", "sequence")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"grpo.{name}={getattr(self, name)!r:.80}; choose {' or '.join(known)}"
                )


def advantages(settings: GRPOConfig, episodes: Episodes):
    """Group-relative advantages, as `RolloutSource` takes them: over the whole rollout, in which
    groups are still together."""
    rewards, valid = jnp.sum(episodes.token_rewards, axis=1), episodes.valid
    size, baseline, scale = settings.group_size, settings.baseline, settings.scale
    each = adv.group_advantages(rewards, size, baseline, scale, valid)
    groups = (x.reshape(-1, size) for x in (episodes.scores, valid))
    metrics = {"equal_groups": jnp.mean(~adv.spread(*groups, axis=1))}
    return jnp.where(episodes.mask > 0, each[:, None], 0.0), {}, metrics


def build(ctx: Context) -> Stage:
    settings = ctx.config.grpo
    source = RolloutSource(
        ctx, Sampler(ctx), partial(advantages, settings), settings.group_size, settings.max_draws
    )
    sequence = settings.ratio == "sequence"
    return policy_loss.policy_stage(ctx, source, settings.loss_mean, sequence)


def check(config) -> None:
    policy_loss.check(config)
    if config.rl.rollout_batch % config.grpo.group_size:
        raise ConfigError(
            f"rl.rollout_batch={config.rl.rollout_batch} counts answers, and is not a multiple "
            f"of grpo.group_size={config.grpo.group_size}"
        )


OBJECTIVE = Objective(
    schema="prompt",
    trainable=("policy",),
    build=build,
    origins={"policy": ("policy",)},
    frozen=("reference",),
    optional=("reward", "judge"),
    required=("policy",),
    settings=GRPOConfig,
    check=check,
    divisible=policy_loss.divisible,
    group_size=lambda config: config.grpo.group_size,
    report=policy_loss.report("GRPO"),
)
