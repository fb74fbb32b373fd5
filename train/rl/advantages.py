"""From scores to advantages: token rewards, GAE, whitening, and the adaptive KL coefficient.

Axes: B batch, R response length. `mask` [B, R] is 1 through and including the token that ends a
response. All sums are over the global batch, so 1 and 8 devices agree.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# A sample whose largest and smallest number differ by less than this share of the largest size is
# of equal numbers, and rounding.
EQUAL = 1e-6


class Episodes(NamedTuple):
    """The scored answers of a rollout, in the order [prompt, group], from which advantages are
    computed.

    Attributes:
      token_rewards: [B, R], the KL penalty of each token and, at the last one, the score.
      mask: [B, R]. scores: [B], raw. valid: [B] bool, whether an answer has a score.
      ended: [B] bool, whether it was not cut off. values: [B, R] of the critic, or None.
    """

    token_rewards: jax.Array
    mask: jax.Array
    scores: jax.Array
    valid: jax.Array
    ended: jax.Array
    values: jax.Array | None = None


def masked_mean(x, mask):
    """Mean of x where mask is above 0."""
    return jnp.sum(jnp.where(mask > 0, x, 0.0)) / jnp.sum(mask)


def spread(x, valid, axis=None):
    """Whether the valid numbers of a sample differ by more than rounding; a scale is taken of no
    other."""
    low = jnp.min(jnp.where(valid, x, jnp.inf), axis=axis)
    high = jnp.max(jnp.where(valid, x, -jnp.inf), axis=axis)
    return high - low > EQUAL * jnp.max(jnp.where(valid, jnp.abs(x), 0.0), axis=axis)


def moments(x, valid, axis=None):
    """(mean, standard deviation with n - 1) of the valid numbers of a sample; 0 where there are
    none, or one. An `axis` stays, with size 1."""
    over = dict(axis=axis, keepdims=axis is not None)
    valid = jnp.broadcast_to(valid, x.shape)
    count = jnp.sum(valid, **over)
    mean = jnp.sum(jnp.where(valid, x, 0.0), **over) / jnp.maximum(count, 1)
    centered = jnp.where(valid, x - mean, 0.0)
    size = jnp.max(jnp.abs(centered), **over)  # what is squared neither overflows nor vanishes
    squares = jnp.sum((centered / jnp.where(size > 0, size, 1.0)) ** 2, **over)
    return mean, size * jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def normalized(rl, scores, s, length, ended, fit: bool, valid=True):
    """Scores [B] as rewards: normalised, clipped, and less for what is too long or cut off.

    Args:
      fit: whether the first rollout whose scores differ sets the normaliser; until then it is gain
        1 and bias 0, and scores are centered alone. Else it is as `s` has it.
      valid: [B] bool, which scores count.

    Returns:
      (rewards [B], the normaliser {gain, bias}).
    """
    unset = fit & ((s["rollout"] == 0) | ((s["gain"] == 1) & (s["bias"] == 0)))
    mean, std = moments(scores, valid)
    first = unset & spread(scores, valid)
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


def last_token(mask):
    """[B, R] -> float [B, R], 1 at the last valid token of each row."""
    index = jnp.sum(mask, axis=-1, dtype=jnp.int32) - 1
    return (jnp.arange(mask.shape[-1]) == index[:, None]).astype(jnp.float32)


def token_rewards(scores, kl, mask, kl_coef):
    """-kl_coef·kl a token, plus the score [B] at the last valid one -> [B, R] float32."""
    rewards = jnp.where(mask != 0, -kl_coef * kl, 0.0)
    return rewards + last_token(mask) * scores.astype(jnp.float32)[:, None]


def gae(rewards, values, mask, gamma: float, lam: float, bootstrap=None):
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438).

    δ_t = r_t + γ V_{t+1} - V_t;  A_t = δ_t + γ λ A_{t+1};  V_t is the value *before* token t.

    Args:
      rewards, values, mask: [B, R].
      bootstrap: [B], the value after the last valid token of rows cut off before they ended; 0
        (by default) treats every row as ended.

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

    # After the last valid token every δ is 0, so the recursion reaches it with advantage 0.
    _, advantages = jax.lax.scan(back, jnp.zeros(len(deltas)), deltas.T, reverse=True)
    advantages = jnp.where(mask != 0, advantages.T, 0.0)
    return advantages, advantages + values


def group_advantages(rewards, size: int, baseline: str, scale: str, valid=True):
    """Group-relative advantages.

    Args:
      rewards: [B] in the order [prompt, group]: `size` answers to one prompt, then the next's.
      baseline: `mean` of the group (Shao et al. 2024, arXiv:2402.03300), or of the `others` in it
        (RLOO, Ahmadian et al. 2024, arXiv:2402.14740).
      scale: `std` divides by the group's, with n-1; `none` does not (Dr. GRPO, Liu et al. 2025,
        arXiv:2503.20783).
      valid: [B] bool; answers that are not count for nothing, and have advantage 0.

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
    differ = spread(groups, valid, axis=1)[:, None]
    return jnp.where(valid & differ, centered, 0.0).reshape(-1)


def whiten(x, mask, shift_mean: bool = True, epsilon: float = 1e-8):
    """(x - mean)·rsqrt(var + ε) over valid entries, var with n-1; the mean added back if not
    `shift_mean`. 0 where mask is 0, and everywhere (before the mean is added) if they are equal.
    """
    mask = mask.astype(jnp.float32)
    count = jnp.sum(mask)
    x = jnp.where(mask != 0, x, 0.0)
    mean = jnp.sum(x) / jnp.maximum(count, 1)
    centered = jnp.where((mask != 0) & spread(x, mask != 0), x - mean, 0.0)
    variance = jnp.sum(centered**2) / jnp.maximum(count - 1, 1)
    white = centered * jax.lax.rsqrt(variance + epsilon)
    if not shift_mean:
        white = jnp.where(mask != 0, white + mean, 0.0)
    return white


def adaptive_kl(coef, kl, target: float, horizon: float, n: int):
    """β ← β·(1 + clip(KL/target - 1, ±0.2)·n/horizon) (Ziegler et al. 2019, arXiv:1909.08593).

    `kl`: mean over sequences of the sum over tokens; `n`: episodes since the last update.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return coef * (1 + error * n / horizon)
