"""The experience of a rollout: all that an update needs of the answers and their scores.

Axes: B episodes, P prompt length (left padded), R response length; train/rl/rollout.py names the
arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model import sharding
from train.losses import kl_estimate
from train.rl import advantages as adv
from train.rl import forward, hacking


def make_experience(
    ctx: Any,
    advantages_of: Callable[[adv.Episodes], tuple],
    roles: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    scores: jax.Array,
    s: Mapping[str, jax.Array],
    train_policy: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
    """The experience of a rollout, with all that an update needs. Traced under `jit`.

    Args:
      advantages_of: as in `RolloutSource`.
      roles: {role: parameters} of `policy`, `reference` and, for PPO, one of `forward.CRITICS`.
      batch: from `Sampler.sample`. scores: [B], raw; an episode whose score is not finite is
        skipped: its masks are 0. s: the source's scalars (`RolloutSource.init`).
      train_policy: bool scalar; false while the critic warms up.

    Returns:
      (experience, updated scalars, metrics).
    """
    rl, R = ctx.config.rl, ctx.config.rl.response_length
    settings = R, rl.temperature, ctx.config.loss.chunk

    def forward_rows(rows):
        old, entropy, values = forward.policy_and_values(ctx.models, roles, rows, settings)
        reference = ctx.models["reference"], roles["reference"]
        out = {"old_logprobs": old, "entropy": entropy}
        out["ref_logprobs"], _ = forward.response_logprobs(*reference, rows, *settings)
        return out if values is None else out | {"old_values": values}

    experience = dict(batch) | forward.by_rows(forward_rows, batch, ctx.config.data.batch_size)
    entropy, sampler_logprobs = (experience.pop(k) for k in ("entropy", "sampler_logprobs"))
    valid, old = jnp.isfinite(scores), experience["old_logprobs"]
    mask = jnp.where(valid[:, None], experience["response_mask"], 0.0)
    experience["response_mask"], scores = mask, jnp.where(valid, scores, 0.0)
    length = jnp.sum(mask, axis=1)
    answer = experience["tokens"][:, -R:]
    stops = functools.reduce(jnp.logical_or, [answer == i for i in ctx.tokenizer.stop_ids])
    ended = jnp.sum(adv.last_token(mask) * stops, axis=1) > 0
    fit = rl.normalize_scores and ctx.normalizer is None
    final, scalars = adv.normalized(rl, scores, s, length, ended, fit, valid)

    k1 = kl_estimate(old, experience["ref_logprobs"])
    kl = kl_estimate(old, experience["ref_logprobs"], rl.kl_estimator)
    token_rewards = adv.token_rewards(final, kl, mask, s["kl_coef"])
    rewards = jnp.sum(token_rewards, axis=1)

    def mean(x):
        return adv.masked_mean(x, mask)

    def row_mean(x):
        return adv.moments(x, valid)[0]

    kl_sum = row_mean(jnp.sum(jnp.where(mask > 0, k1, 0.0), axis=1))
    gap = jnp.abs(jnp.where(mask > 0, old - sampler_logprobs, 0))
    metrics = {
        "score": row_mean(scores),
        "score_std": adv.moments(scores, valid)[1],
        "score_normalized": row_mean(final),
        "reward": row_mean(rewards),
        "reward_errors": jnp.sum(~valid),
        "kl": kl_sum,
        "kl_per_token": mean(k1),
        "kl_coef": s["kl_coef"],
        "entropy": mean(entropy),
        "repetition": row_mean(hacking.repetition(answer, mask)),
        "length": row_mean(length),
        "eos_rate": row_mean(ended.astype(jnp.float32)),
        "logprob_gap_max": jnp.max(gap),
        "logprob_gap_mean": mean(gap),
    }
    episodes = adv.Episodes(token_rewards, mask, scores, valid, ended, experience.get("old_values"))
    advantages, arrays, advantage_metrics = advantages_of(episodes)
    experience, metrics = experience | arrays, metrics | advantage_metrics
    if cap := rl.largest_weight:
        # Truncated importance sampling (Ionides 2008, doi:10.1198/106186008X320456), a token at a
        # time. A factor of an advantage weights the token's loss, which is linear in it.
        importance = jnp.exp(jnp.where(mask > 0, old - sampler_logprobs, 0.0))
        weights = jnp.minimum(importance, cap)
        advantages = advantages * weights
        metrics["importance_mean"] = mean(weights)
        metrics["importance_capped"] = mean(importance > cap)
    experience["advantages"] = advantages
    trains_policy = train_policy & (ended if rl.missing_eos == "mask" else True)
    experience["policy_mask"] = jnp.where(jnp.reshape(trains_policy, (-1, 1)), mask, 0.0)

    kl_coef = s["kl_coef"]
    if rl.kl_target:
        count = jnp.sum(valid)
        kl_coef = adv.adaptive_kl(kl_coef, kl_sum, rl.kl_target, rl.kl_horizon, count)
    return experience, scalars | {"kl_coef": kl_coef}, metrics


def reward_means(rewards: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """{`reward/NAME`: the mean of each reward over the answers that have a score}."""
    valid = jnp.isfinite(rewards["score"])
    return {f"reward/{k}": adv.moments(v, valid)[0] for k, v in rewards.items() if k != "score"}


def shapes(ctx: Any, n: int) -> dict[str, jax.ShapeDtypeStruct]:
    """{name: `jax.ShapeDtypeStruct`} of `n` rows of an experience."""
    R = ctx.config.rl.response_length
    wide = (n, ctx.config.rl.prompt_length + R)
    shapes = {name: (wide, jnp.int32) for name in ("tokens", "positions", "segment_ids")}
    names = ["response_mask", "old_logprobs", "ref_logprobs", "advantages", "policy_mask"]
    names += ["old_values", "returns"] if any(r in ctx.models for r in forward.CRITICS) else []
    shapes |= {name: ((n, R), jnp.float32) for name in names}
    rows = sharding.batch_sharding(ctx.mesh)
    return {k: jax.ShapeDtypeStruct(*shape, sharding=rows) for k, shape in shapes.items()}


def answers(experience: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of an experience with the names and the shapes of `Sampler.sample`'s."""
    names = "tokens", "positions", "segment_ids", "response_mask"
    batch = {name: experience[name] for name in names}
    return batch | {"sampler_logprobs": experience["old_logprobs"]}
