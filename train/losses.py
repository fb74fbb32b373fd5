"""Losses as array functions. Each returns (sum, weight); the caller divides once per step.

Masks are applied with `where`, so that nothing at a masked position, not even NaN or 1e30, reaches
a sum. Axes: B batch, T length, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.kernels import tpu
from model.layers.moe import RouterStats
from model.sharding import platform
from model.vocabulary import log_probs

# Bound of log-ratios before exp(): a larger ratio carries no more information, and soon overflows.
MAX_LOG_RATIO = 20.0


def masked_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The sum of x weighted by mask, over entries whose mask is not 0."""
    return jnp.sum(jnp.where(mask != 0, x * jnp.where(mask != 0, mask, 1), 0.0))


def next_token_loss(
    logits: jax.Array, tokens: jax.Array, loss_mask: jax.Array, z_loss: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy of each token given those before it.

    Args:
      logits: [B, T, V] float32; tokens: [B, T] int32; loss_mask: [B, T], weight of predicting
        `tokens[:, t]` from t-1.
      z_loss: weight of log(Z)², which keeps logits from drifting (arXiv:2204.02311, section 5).

    Returns:
      (sum of nats plus z-loss, sum of nats alone, weight).
    """
    mask = loss_mask[:, 1:]
    nats, log_z = token_nats(logits[:, :-1], tokens[:, 1:], mask)
    return sum_nats(nats, log_z, mask, z_loss)


def token_nats(
    logits: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), log Z), both [B, T] float32; finite but meaningless at masked positions.

    Args:
      logits: [B, T, V] float32; targets: [B, T] int32; mask: [B, T].
    """
    # Before the softmax, so that a poisoned masked position does not reach the gradient either.
    logits = jnp.where(mask[..., None] != 0, logits, 0.0)
    if platform() == "tpu":
        logp, log_z = tpu.log_probs(logits, targets)
        return -logp, log_z
    return -log_probs(logits, targets, 1.0), jax.nn.logsumexp(logits, axis=-1)


def sum_nats(
    nats: jax.Array, log_z: jax.Array, mask: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sums that `next_token_loss` returns, from the output of `token_nats`."""
    total = nats
    if z_loss:
        total = total + z_loss * log_z**2
    return masked_sum(total, mask), masked_sum(nats, mask), jnp.sum(mask)


def router_losses(
    stats: RouterStats, tokens: jax.Array, experts_per_token: int
) -> tuple[jax.Array, jax.Array]:
    """Router losses of a mixture of experts, averaged over layers: load balance over the experts,
    and the z-loss, which keeps the router's logits small.

    Args:
      stats: RouterStats (model/layers/moe.py) with leading [L]. tokens: float32, the number of
        tokens.

    Returns:
      (load balance, z): float32 sums over tokens. Load balance is E·Σₑ fₑ·pₑ a token, fₑ the
      fraction of choices of expert e and pₑ its mean probability (Fedus et al. 2021,
      arXiv:2101.03961, eq. 4); 1 when balanced. fₑ and pₑ are computed per microbatch. z is
      logsumexp(logits)² a token (Zoph et al. 2022, arXiv:2202.08906, eq. 5).
    """
    L, E = stats.chosen.shape
    count = jnp.maximum(tokens, 1.0)
    fraction = stats.chosen / (count * experts_per_token)
    balance = E * jnp.sum(fraction * stats.probability / count) / L
    return balance * tokens, jnp.sum(stats.z) / L


def pairs(rank: jax.Array, group: jax.Array) -> jax.Array:
    """Indicator of ranked pairs, [B, C, C] float32: 1 where candidate i is ranked before j in the
    same group.

    Args:
      rank: [B, C] int32, lower is better, -1 no candidate; group: [B, C] int32.
    """
    real = rank >= 0
    beats = (rank[:, :, None] < rank[:, None, :]) & real[:, :, None] & real[:, None, :]
    return (beats & (group[:, :, None] == group[:, None, :])).astype(jnp.float32)


def tied(rank: jax.Array, group: jax.Array) -> jax.Array:
    """Indicator of tied pairs, [B, C, C] float32: 1 where candidates i < j of one group have the
    same rank. Arguments as in `pairs`."""
    equal = (rank[:, :, None] == rank[:, None, :]) & (rank >= 0)[:, :, None]
    equal &= group[:, :, None] == group[:, None, :]
    return jnp.triu(equal.astype(jnp.float32), 1)


def singles(rank: jax.Array, group: jax.Array) -> jax.Array:
    """Indicator of single answers, [B, C] float32: 1 where a candidate is the only one of its
    group, and its rank says whether it is good (0) or not (1)."""
    same = (group[:, :, None] == group[:, None, :]) & (rank >= 0)[:, None, :]
    return ((jnp.sum(same, axis=2) == 1) & (rank >= 0)).astype(jnp.float32)


def bradley_terry(
    rewards: jax.Array,
    rank: jax.Array,
    group: jax.Array,
    margin: float = 0.0,
    center: float = 0.0,
    smoothing: float | jax.Array = 0.0,
    ties: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """-log σ(r_i - r_j - margin) over every pair in which i is ranked before j (arXiv:2203.02155),
    plus -log σ(r) of each good single answer and -log σ(-r) of each bad one.

    Args:
      rewards: [B, C] float32; rank: [B, C] int32, lower is better, equal is a tie, -1 none;
        group: [B, C] int32; pairs are within a group.
      center: weight of (r_i + r_j)², which keeps rewards near 0 (arXiv:2312.09244).
      smoothing: share ε of labels assumed to be wrong: the target of a pair and of a single answer
        is 1-ε instead of 1. A number, or [B, C], one for each candidate's ranking (`label_noise`).
      ties: weight of a tied pair, whose target is ½.

    Returns:
      (sum over pairs and single answers, their weight: 1 each, or `ties`).
    """
    weights, tie_weights, single = (
        pairs(rank, group),
        ties * tied(rank, group),
        singles(rank, group),
    )
    rewards = jnp.where(rank >= 0, rewards, 0.0)
    difference = rewards[:, :, None] - rewards[:, None, :]
    smoothing = jnp.broadcast_to(smoothing, rank.shape)
    target = 1 - smoothing[:, :, None]

    def cross_entropy(logit, target):
        return -target * jax.nn.log_sigmoid(logit) - (1 - target) * jax.nn.log_sigmoid(-logit)

    loss, tie_loss = cross_entropy(difference - margin, target), cross_entropy(difference, 0.5)
    if center:
        penalty = center * (rewards[:, :, None] + rewards[:, None, :]) ** 2
        loss, tie_loss = loss + penalty, tie_loss + penalty
    single_loss = cross_entropy(rewards, jnp.where(rank == 0, 1 - smoothing, smoothing))
    total = masked_sum(loss, weights) + masked_sum(tie_loss, tie_weights)
    total = total + masked_sum(single_loss, single)
    return total, jnp.sum(weights) + jnp.sum(tie_weights) + jnp.sum(single)


def label_noise(smoothing: float, doubt: jax.Array) -> jax.Array:
    """The probability [B, C] that a label is wrong, after a share `smoothing` of all labels is
    flipped: before, it is wrong with probability `doubt` [B, C] (data/batch.py)."""
    return smoothing + doubt - 2 * smoothing * doubt


def over_pairs(
    scores: jax.Array,
    rank: jax.Array,
    group: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    smoothing: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """A loss summed over every pair in which candidate i is ranked before j.

    Args:
      scores: [B, C] float32. rank, group: as in `bradley_terry`.
      loss: elementwise, from r_i - r_j to the loss of a pair.
      smoothing: ε, the share of labels assumed to be wrong, a number or [B, C]: the loss of the
        reversed pair is mixed in with weight ε.

    Returns:
      (sum over pairs, number of pairs).
    """
    weights = pairs(rank, group)
    scores = jnp.where(rank >= 0, scores, 0.0)
    difference = scores[:, :, None] - scores[:, None, :]
    smoothing = jnp.broadcast_to(smoothing, rank.shape)[:, :, None]
    mixed = (1 - smoothing) * loss(difference) + smoothing * loss(-difference)
    return masked_sum(mixed, weights), jnp.sum(weights)


def sign_accuracy(scores: jax.Array, rank: jax.Array) -> jax.Array:
    """Accuracy of each answer by the sign of its score, [B, C]: 1 where a good answer (rank 0) has
    a positive score or another a negative one, else 0; a score of 0 counts half."""
    return (1 + jnp.sign(jnp.where(rank == 0, scores, -scores))) / 2


def pair_metrics(
    scores: jax.Array, rank: jax.Array, group: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{`accuracy`, `margin`} of scores [B, C], each (sum over pairs, number of pairs); ties count
    half. Accuracy includes single answers (`sign_accuracy`)."""
    weights, single = pairs(rank, group), singles(rank, group)
    gap = scores[:, :, None] - scores[:, None, :]
    count = jnp.sum(weights)
    correct = masked_sum((1 + jnp.sign(gap)) / 2, weights)
    correct += masked_sum(sign_accuracy(scores, rank), single)
    return {
        "accuracy": (correct, count + jnp.sum(single)),
        "margin": (masked_sum(gap, weights), count),
    }


def kl_estimate(logprobs: jax.Array, ref_logprobs: jax.Array, kind: str = "k1") -> jax.Array:
    """Per-token estimates of KL(policy ‖ reference) from tokens the policy sampled.

    k1 = d, k2 = d²/2, k3 = expm1(-d) + d with d = log π - log π_ref
    (http://joschu.net/blog/kl-approx.html); expm1 keeps k3 from going negative by cancellation.
    The exponent of k3 is bounded by MAX_LOG_RATIO, as the policy's ratio is; beyond it the gradient
    is 0.
    """
    d = logprobs - ref_logprobs
    if kind == "k1":
        return d
    if kind == "k2":
        return 0.5 * d * d
    if kind == "k3":
        d = jnp.maximum(d, -MAX_LOG_RATIO)
        return jnp.expm1(-d) + d
    raise ValueError(f"rl.kl_estimator={kind!r}; choose k1, k2 or k3")


def token_weights(mask: jax.Array, mean: str) -> tuple[jax.Array, jax.Array]:
    """(weights [B, R] of valid tokens, the divisor of their weighted sum) of a mean over a batch.

    Args:
      mask: [B, R], 1 for valid tokens.
      mean: over every `token` (DAPO, Yu et al. 2025, arXiv:2503.14476); over each `sequence`, of
        the mean over its tokens (GRPO); or over sequences, of the sum over tokens divided by the
        `constant` R (Dr. GRPO).
    """
    length = jnp.sum(mask, axis=1, keepdims=True)
    if mean == "token":
        return mask, jnp.sum(mask)
    if mean == "sequence":
        return mask / jnp.maximum(length, 1), jnp.sum(length > 0).astype(jnp.float32)
    return mask / mask.shape[1], jnp.float32(len(mask))


def ppo_policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip_low: float,
    clip_high: float,
    dual: float = 0.0,
    sequence: bool = False,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """The clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), negated.

    Args:
      logprobs, old_logprobs, advantages: [B, R]. mask: [B, R], weights of the tokens.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      dual: if above 0, bounds the loss at negative advantages by -dual·A (arXiv:1912.09729).
      sequence: whether a token's ratio is that of its sequence, the geometric mean over its
        tokens (GSPO, Zheng et al. 2025, arXiv:2507.18071, eq. 7).

    Returns:
      (sum, weight, {metric: sum over valid tokens, each counted once}) with `clip_fraction` (tokens
      whose clipped branch is the larger), `ratio`, `approx_kl` (k3 from old to new), and
      `ratio_max`, the largest.
    """
    valid = mask != 0
    log_ratio = jnp.clip(logprobs - old_logprobs, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    # A poisoned masked position must not reach the gradient through exp either.
    log_ratio = jnp.where(valid, log_ratio, 0.0)
    advantages = jnp.where(valid, advantages, 0.0)
    if sequence:
        count = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
        mean = jnp.sum(log_ratio, axis=1, keepdims=True) / count
        log_ratio = jnp.where(valid, mean, 0.0)
    ratio = jnp.exp(log_ratio)
    plain = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = jnp.maximum(plain, clipped)
    if dual:
        loss = jnp.where(advantages < 0, jnp.minimum(loss, -dual * advantages), loss)
    metrics = {
        "clip_fraction": masked_sum((clipped > plain).astype(jnp.float32), valid),
        "ratio": masked_sum(ratio, valid),
        "approx_kl": masked_sum(jnp.expm1(log_ratio) - log_ratio, valid),
        "ratio_max": jnp.max(jnp.where(valid, ratio, 0.0)),
    }
    return masked_sum(loss, mask), jnp.sum(mask), metrics


def value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, mask: jax.Array, clip: float
) -> tuple[jax.Array, jax.Array]:
    """½ max((v - R)², (v_clipped - R)²), v clipped to within `clip` of the rollout's value.

    As in Baselines' PPO2 and lm-human-preferences; `clip` 0 disables the clipping.
    """
    values, old_values, returns = (
        jnp.where(mask != 0, x, 0.0) for x in (values, old_values, returns)
    )
    loss = (values - returns) ** 2
    if clip:
        clipped = old_values + jnp.clip(values - old_values, -clip, clip)
        loss = jnp.maximum(loss, (clipped - returns) ** 2)
    return 0.5 * masked_sum(loss, mask), jnp.sum(mask)
