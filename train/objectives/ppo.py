"""PPO: the clipped policy loss over rollouts, with advantages from a learned critic
(Schulman et al. 2017, arXiv:1707.06347)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import ranges
from ranges import ConfigError, CountOr0, NonNegative, Share
from train import losses
from train.objectives import policy_loss
from train.objectives.base import Context, Objective, Stage
from train.rl import advantages as adv
from train.rl.advantages import Episodes
from train.rl.rollout import RolloutSource
from train.rl.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO alone, on advantages and the critic; those shared with GRPO are in `rl`.

    Attributes:
      gamma, lam: discount and λ of generalized advantage estimation.
      whiten_advantages: whether advantages are whitened over the rollout.
      value_clip: bound of the value's change (`value_loss` in train/losses.py). value_coef: weight
        of the value loss.
      bootstrap_truncated: whether the value after a truncated answer is the critic's, instead of 0.
      shared_critic: whether the critic is a head on the policy's last hidden states, whose loss
        also trains the policy's layers, weighted by value_coef; else it is a separate network.
      critic_warmup: number of rollouts in which only the critic learns; `optimizer`'s weight decay
        still applies to the policy.
    """

    gamma: Share = 1.0
    lam: Share = 0.95
    whiten_advantages: bool = True
    value_clip: NonNegative = 0.2
    value_coef: NonNegative = 0.1
    bootstrap_truncated: bool = False
    shared_critic: bool = False
    critic_warmup: CountOr0 = 0

    def __post_init__(self):
        ranges.check(self, "ppo.")
        if self.shared_critic and self.critic_warmup:
            raise ConfigError(
                f"ppo.critic_warmup={self.critic_warmup} needs a separate critic: with "
                "ppo.shared_critic, training the critic moves the policy; set "
                "--config.ppo.critic_warmup=0"
            )


def advantages(
    settings: PPOConfig, episodes: Episodes
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """Generalized advantage estimation with the critic's values.

    Returns:
      (advantages [B, R], {`returns`: [B, R]}, metrics), as `RolloutSource` takes them.
    """
    mask, values, bootstrap = episodes.mask, episodes.values, None
    assert values is not None, "PPO's episodes have a critic's values"
    if settings.bootstrap_truncated:
        # The value after the last token is not computed; the one before it is the nearest.
        last = jnp.sum(adv.last_token(mask) * values, axis=1)
        bootstrap = jnp.where(episodes.ended, 0.0, last)
    advantages, returns = adv.gae(
        episodes.token_rewards, values, mask, settings.gamma, settings.lam, bootstrap
    )
    if settings.whiten_advantages:
        advantages = adv.whiten(advantages, mask)

    def mean(x):
        return adv.masked_mean(x, mask)

    error = jnp.where(mask > 0, returns - values, 0.0)
    variance = mean((returns - mean(returns)) ** 2)
    unexplained = mean((error - mean(error)) ** 2)
    # Returns that differ only by rounding have no variance to explain.
    size = jnp.max(jnp.where(mask > 0, jnp.maximum(jnp.abs(returns), jnp.abs(values)), 0.0))
    varies = jnp.sqrt(variance) > adv.ROUNDING * size
    metrics = {
        "return_mean": mean(returns),
        "return_std": jnp.sqrt(variance),
        "explained_variance": jnp.where(varies, 1 - unexplained / variance, 0.0),
    }
    return advantages, {"returns": returns}, metrics


def build(ctx: Context) -> Stage:
    """The stage of PPO."""
    settings = ctx.config.ppo
    source = RolloutSource(
        ctx, Sampler(ctx), partial(advantages, settings), critic_warmup=settings.critic_warmup
    )

    def value_loss(values, batch):
        value, valid = losses.value_loss(
            values, batch["old_values"], batch["returns"], batch["response_mask"],
            settings.value_clip,
        )  # fmt: skip
        return settings.value_coef * value, {"value_loss": (value, valid)}

    return policy_loss.policy_stage(ctx, source, value_loss=value_loss)


def configure(objective: Objective, config: Any) -> Objective:
    """The objective with the roles of a shared critic, a head on the policy, if it is set."""
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
    validate=policy_loss.validate,
    divisible=policy_loss.divisible,
    report=policy_loss.report(lambda config: "PPO"),
)
