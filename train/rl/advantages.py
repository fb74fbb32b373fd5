"""Advantages from scores: token rewards, GAE, whitening, and the adaptive KL coefficient.

Axes: B batch, R response length. `mask` [B, R] is 1 through and including the token that ends a
response. All sums are over the global batch, so results do not depend on the number of devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.config.rl import RLConfig

# Numbers are equal up to rounding if the largest and the smallest differ by less than this share of
# the largest absolute value.
ROUNDING = 1e-6


class Episodes(NamedTuple):
    """The scored answers of a rollout, in the order [prompt, group]: the input of advantages.

    Attributes:
      token_rewards: [B, R], the KL penalty of each token plus, at the last one, the score.
      mask: [B, R]. scores: [B], raw. valid: [B] bool, whether an answer has a score.
      ended: [B] bool, whether it ended before the token limit. values: [B, R], the critic's, or
        None.
    """

    token_rewards: jax.Array
    mask: jax.Array
    scores: jax.Array
    valid: jax.Array
    ended: jax.Array
    values: jax.Array | None = None


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x where mask is above 0."""
    return jnp.sum(jnp.where(mask > 0, x, 0.0)) / jnp.sum(mask)


def varies(
    x: jax.Array | np.ndarray, valid: jax.Array | bool, axis: int | None = None
) -> jax.Array:
    """Whether the valid numbers of a sample differ by more than rounding; otherwise their standard
    deviation is no scale."""
    low = jnp.min(jnp.where(valid, x, jnp.inf), axis=axis)
    high = jnp.max(jnp.where(valid, x, -jnp.inf), axis=axis)
    return high - low > ROUNDING * jnp.max(jnp.where(valid, jnp.abs(x), 0.0), axis=axis)


def moments(
    x: jax.Array, valid: jax.Array | bool, axis: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """(mean, standard deviation with n - 1) of the valid numbers of a sample. The mean of no number
    is 0, and so is the deviation of fewer than two. `axis` is kept, with size 1."""
    over: dict[str, Any] = dict(axis=axis, keepdims=axis is not None)
    valid = jnp.broadcast_to(valid, x.shape)
    count = jnp.sum(valid, **over)
    mean = jnp.sum(jnp.where(valid, x, 0.0), **over) / jnp.maximum(count, 1)
    centered = jnp.where(valid, x - mean, 0.0)
    size = jnp.max(
        jnp.abs(centered), **over
    )  # scaled, so that squares neither overflow nor underflow
    squares = jnp.sum((centered / jnp.where(size > 0, size, 1.0)) ** 2, **over)
    return mean, size * jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def normalized(
    rl: RLConfig,
    scores: jax.Array,
    s: Mapping[str, jax.Array],
    length: jax.Array,
    ended: jax.Array,
    fit: bool,
    valid: jax.Array | bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Rewards [B] from scores [B]: normalized, clipped, and reduced for answers that are too long
    or truncated.

    Args:
      s: the source's scalars, with `rollout`, `gain` and `bias`. length: [B]. ended: [B] bool.
      fit: whether the first rollout whose scores differ sets the normalizer; until then it is gain
        1 and bias 0, and scores are only centered. Otherwise it is that of `s`.
      valid: [B] bool, whether an answer has a score.

    Returns:
      (rewards [B], the normalizer {`gain`, `bias`}).
    """
    unset = fit & ((s["rollout"] == 0) | ((s["gain"] == 1) & (s["bias"] == 0)))
    mean, std = moments(scores, valid)
    first = unset & varies(scores, valid)
    gain = jnp.where(first, 1 / jnp.where(first, std, 1.0), s["gain"])
    bias = jnp.where(first, -mean * gain, s["bias"])
    final = scores * gain + jnp.where(unset & ~first, -mean, bias)
    if rl.score_clip:
        final = jnp.clip(final, -rl.score_clip, rl.score_clip)
    if rl.missing_eos == "penalty":
        final = jnp.where(ended, final, final - rl.missing_eos_value)
    elif rl.missing_eos == "replace":
        final = jnp.where(ended, final, rl.missing_eos_value)
    if rl.overlong_buffer:
        over = length - (rl.response_length - rl.overlong_buffer)
        final = final - jnp.clip(over / rl.overlong_buffer, 0, 1)
    return final, {"gain": gain, "bias": bias}


def last_token(mask: jax.Array) -> jax.Array:
    """Indicator of the last valid token of each row, [B, R] float32."""
    index = jnp.sum(mask, axis=-1, dtype=jnp.int32) - 1
    return (jnp.arange(mask.shape[-1]) == index[:, None]).astype(jnp.float32)


def token_rewards(
    scores: jax.Array, kl: jax.Array, mask: jax.Array, kl_coef: jax.Array
) -> jax.Array:
    """-kl_coef·kl for each token, plus the score [B] at the last valid token; [B, R] float32."""
    rewards = jnp.where(mask != 0, -kl_coef * kl, 0.0)
    return rewards + last_token(mask) * scores.astype(jnp.float32)[:, None]


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    gamma: float,
    lam: float,
    bootstrap: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438).

    δ_t = r_t + γ V_{t+1} - V_t;  A_t = δ_t + γ λ A_{t+1};  V_t is the value *before* token t.

    Args:
      rewards, values, mask: [B, R].
      bootstrap: [B], the value after the last valid token, not 0 for truncated rows; None treats
        every row as ended.

    Returns:
      (advantages, returns = advantages + values), both [B, R], 0 where mask is 0.
    """
    mask = mask.astype(jnp.float32)
    rewards = jnp.where(mask != 0, rewards, 0.0)
    values = jnp.where(mask != 0, values, 0.0)
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    if bootstrap is not None:
        following = following + last_token(mask) * bootstrap[:, None]
    deltas = jnp.where(mask != 0, rewards + gamma * following - values, 0.0)

    def back(advantage, delta):
        advantage = delta + gamma * lam * advantage
        return advantage, advantage

    # Every δ after the last valid token is 0, so the recursion enters that token with advantage 0.
    _, advantages = jax.lax.scan(back, jnp.zeros(len(deltas)), deltas.T, reverse=True)
    advantages = jnp.where(mask != 0, advantages.T, 0.0)
    return advantages, advantages + values


def group_advantages(
    rewards: jax.Array, size: int, baseline: str, scale: str, valid: jax.Array | bool = True
) -> jax.Array:
    """Group-relative advantages.

    Args:
      rewards: [B] in the order [prompt, group]: `size` answers to one prompt, then those to the
        next.
      baseline: the `mean` of the group (Shao et al. 2024, arXiv:2402.03300), or that of the
        `others` in it (RLOO, Ahmadian et al. 2024, arXiv:2402.14740).
      scale: `std` divides by the group's standard deviation, with n-1; `none` does not (Dr. GRPO,
        Liu et al. 2025, arXiv:2503.20783).
      valid: [B] bool; an invalid answer is excluded from its group, and its advantage is 0.

    Returns:
      [B] float32; exactly 0 in a group of equal rewards.
    """
    groups = rewards.astype(jnp.float32).reshape(-1, size)
    valid = jnp.broadcast_to(valid, rewards.shape).reshape(-1, size)
    mean, std = moments(groups, valid, axis=1)
    centered = groups - mean
    if baseline == "others":
        count = jnp.sum(valid, axis=1, keepdims=True)
        centered = centered * (count / jnp.maximum(count - 1, 1))
    if scale == "std":
        centered = centered / (std + 1e-6)
    differ = varies(groups, valid, axis=1)[:, None]
    return jnp.where(valid & differ, centered, 0.0).reshape(-1)


def whiten(
    x: jax.Array, mask: jax.Array, shift_mean: bool = True, epsilon: float = 1e-8
) -> jax.Array:
    """(x - mean)·rsqrt(var + ε) over valid entries, var with n-1; the mean is added back if not
    `shift_mean`. It is 0 where mask is 0, and all 0 (before the mean is added) if all are equal.
    """
    mask = mask.astype(jnp.float32)
    count = jnp.sum(mask)
    x = jnp.where(mask != 0, x, 0.0)
    mean = jnp.sum(x) / jnp.maximum(count, 1)
    centered = jnp.where((mask != 0) & varies(x, mask != 0), x - mean, 0.0)
    variance = jnp.sum(centered**2) / jnp.maximum(count - 1, 1)
    white = centered * jax.lax.rsqrt(variance + epsilon)
    if not shift_mean:
        white = jnp.where(mask != 0, white + mean, 0.0)
    return white


def adaptive_kl(
    coef: jax.Array, kl: jax.Array, target: float, horizon: float, n: int | jax.Array
) -> jax.Array:
    """β ← β·(1 + clip(KL/target - 1, ±0.2)·n/horizon) (Ziegler et al. 2019, arXiv:1909.08593).

    Args:
      coef: β. kl: the mean over sequences of the sum over tokens. n: episodes since the last
        update.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return coef * (1 + error * n / horizon)
