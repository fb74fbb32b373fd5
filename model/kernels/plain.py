"""Attention in plain XLA, which holds the [T, S] weights of a chunk of queries.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, G = H // K query
heads a key head, N head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from model import cpu
from model.kernels.base import MASKED, einsum32, visible
from model.taps import tap

# Queries in a chunk. A chunk reads only the keys up to its end, which saves causal attention half
# of its work; on accelerators the matmuls of short rows would only get smaller.
CHUNK = 64


def softmax_parts(logits: Array, mask: Array) -> tuple[Array, Array]:
    """A float32 softmax over the keys in `mask`, as (e^logits [..., S], 1 / their sum [..., 1]).

    The caller multiplies the second into the product with the values, which has fewer columns than
    there are keys; no gradient then sums over the keys.
    """
    logits = jnp.where(mask, logits, MASKED)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    return weights, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def attend(
    q: Array, k: Array, v: Array, mask: Array, *, softcap: float = 0.0, scale: float = 0.0
) -> Array:
    """Softmax attention with grouped heads; the softmax is float32.

    Args:
      q: [B, T, H, N]; k, v: [B, S, K, N].
      mask: [B, T, S] bool, True where the query sees the key.
      softcap: logits x become softcap·tanh(x / softcap); 0 leaves them.
      scale: factor of the queries; 0 is 1/√N.

    Returns:
      [B, T, H, N] in q's dtype.
    """
    weights, inverse = softmax_parts(*_logits(q, k, mask, softcap, scale))
    B, K, G, T, S = weights.shape
    weights = weights.reshape(B, K, G * T, S).astype(v.dtype)
    inverse = inverse.reshape(B, K, G * T, 1)  # on CPU its gradient's sum is slow over five axes
    out = (cpu.weighted_sums(weights, v.swapaxes(1, 2)) * inverse).reshape(B, K, G, T, -1)
    return out.astype(v.dtype).transpose(0, 3, 1, 2, 4).reshape(q.shape)


def _logits(q, k, mask, softcap, scale):
    """(float32 logits [B, K, G, T, S], the mask in their axes) of `attend`."""
    B, T, H, N = q.shape
    S, K = k.shape[1:3]
    q = q.reshape(B, T, K, H // K, N).transpose(0, 2, 3, 1, 4) * (scale or N**-0.5)
    logits = cpu.scores(q.reshape(B, K, -1, N), k.swapaxes(1, 2)).reshape(B, K, -1, T, S)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    return logits, mask[:, None, None]


def _masks(segment_ids, branch_ids, window):
    """A function from (start, end, first) to the mask [B, end - start, end - first] of
    `causal_attention`, of queries start… on keys first…"""
    index = jnp.arange(segment_ids.shape[1])

    def mask_of(start, end, first):
        mask = visible(index[start:end], index[first:end], window)
        mask = mask[None] & (segment_ids[:, start:end, None] == segment_ids[:, None, first:end])
        if branch_ids is not None:
            key_branches = branch_ids[:, None, first:end]
            mask &= (key_branches == 0) | (key_branches == branch_ids[:, start:end, None])
        return mask

    return mask_of


def tapped_attention(
    q: Array, k: Array, v: Array, segment_ids: Array, branch_ids: Array | None = None,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
) -> Array:  # fmt: skip
    """`causal_attention` with taps: its weights [B, H, T, S], and each head's sum of values
    [B, T, H, N]."""
    (B, T, H, N), K = q.shape, k.shape[2]
    mask = _masks(segment_ids, branch_ids, window)(0, T, 0)
    weights, inverse = softmax_parts(*_logits(q, k, mask, softcap, scale))
    weights = tap("attention.weights", (weights * inverse).reshape(B, H, T, T))
    weights = weights.reshape(B, K, H // K, T, T).astype(v.dtype)
    out = einsum32("bkgts,bskn->btkgn", weights, v).astype(v.dtype)
    return tap("attention.heads", out.reshape(B, T, H, N))


def causal_attention(
    q: Array, k: Array, v: Array, segment_ids: Array, branch_ids: Array | None = None,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
) -> Array:  # fmt: skip
    """Causal attention within segments, in chunks of queries that skip the keys they cannot see.

    Args:
      q: [B, T, H, N] of the last T of S positions; k, v: [B, S, K, N]; segment_ids: [B, S] int32,
        0 is padding. A segment's tokens are consecutive, so that differences of index are
        differences of position.
      branch_ids: [B, S] int32, or None. A segment may fork: branch 0 is its trunk, and a token sees
        the keys of the trunk and of its own branch.
      window: keys a query sees at most, its own included; 0 is all.
      softcap, scale: of `attend`.
    """
    S = k.shape[1]
    before = S - q.shape[1]
    mask_of = _masks(segment_ids, branch_ids, window)
    out = []
    for start in range(before, S, CHUNK):
        end = min(start + CHUNK, S)
        first = max(start + 1 - window, 0) if window else 0
        mask = mask_of(start, end, first)
        args = q[:, start - before : end - before], k[:, first:end], v[:, first:end], mask
        out.append(attend(*args, softcap=softcap, scale=scale))
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)
