"""GRPO: the clipped policy loss over rollouts, with advantages relative to the other answers to a
prompt (Shao et al. 2024, arXiv:2402.03300), and its variants."""

from __future__ import annotations

from ranges import ConfigError
from train.config.objectives import GRPOConfig
from train.objectives import policy_loss
from train.objectives.base import Context, Objective, Stage


def build(ctx: Context) -> Stage:
    settings = ctx.config.grpo
    return policy_loss.policy_stage(ctx, settings.loss_mean, settings.ratio == "sequence")


def check(config) -> None:
    policy_loss.check(config)
    if config.ppo.rollout_batch % config.grpo.group_size:
        raise ConfigError(
            f"ppo.rollout_batch={config.ppo.rollout_batch} counts answers, and is not a multiple "
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
