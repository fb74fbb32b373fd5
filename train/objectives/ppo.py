"""PPO: the clipped policy loss over rollouts, with advantages of a learned critic
(Schulman et al. 2017, arXiv:1707.06347)."""

from __future__ import annotations

import dataclasses

from train import losses
from train.config.objectives import PPOConfig
from train.objectives import policy_loss
from train.objectives.base import Context, Objective, Stage


def build(ctx: Context) -> Stage:
    settings = ctx.config.ppo

    def value_loss(values, batch):
        value, valid = losses.value_loss(
            values, batch["old_values"], batch["returns"], batch["response_mask"],
            settings.value_clip,
        )  # fmt: skip
        return settings.value_coef * value, {"value_loss": (value, valid)}

    return policy_loss.policy_stage(ctx, "token", value_loss=value_loss)


def configure(objective: Objective, config) -> Objective:
    """A shared critic is a head on the policy, not a network of its own."""
    if not config.ppo.shared_critic:
        return objective
    trainable = "policy", "value_head"
    origins = dict.fromkeys(trainable, ("policy",))
    return dataclasses.replace(objective, trainable=trainable, origins=origins)


OBJECTIVE = Objective(
    schema="prompt",
    trainable=("policy", "value"),
    build=build,
    origins={"policy": ("policy",), "value": ("value", "reward", "policy")},
    frozen=("reference",),
    optional=("reward", "judge"),
    required=("policy",),
    settings=PPOConfig,
    configure=configure,
    check=policy_loss.check,
    divisible=policy_loss.divisible,
    report=policy_loss.report("PPO"),
)
