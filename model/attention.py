"""Attention over packed rows, and the key-value cache.

Axes: B batch, T query length, S key length (cache length when decoding), H query heads, K key/value
heads, G = H // K query heads a key head, N head size, L layers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.config import TransformerConfig
from model.sharding import constrain

# Far below any logit, and finite: a row with no visible key (padding) softmaxes to a mean, not NaN.
MASKED = -1e30
# Queries in a chunk. A chunk reads only the keys up to its end, which saves causal attention half
# of its work; on accelerators the matmuls of short rows would only get smaller.
CHUNK = 64


class KVCache(NamedTuple):
    """What decoding remembers, for all layers. Slots are columns of the padded row.

    Attributes:
      keys, values: [L, B, S, K, N] activation dtype.
      segment_ids: [B, S] int32; 0 is an empty slot or padding, never attended to.
    """

    keys: jax.Array
    values: jax.Array
    segment_ids: jax.Array


def init_cache(config: TransformerConfig, batch: int, length: int) -> KVCache:
    """An empty cache for `batch` rows of at most `length` slots."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    names = ("act_layers", "act_batch", "act_length", "act_kv_heads", "act_head_dim")
    zeros = constrain(jnp.zeros(shape, config.activation_dtype), *names)
    segments = constrain(jnp.zeros((batch, length), jnp.int32), "act_batch", "act_length")
    return KVCache(zeros, zeros, segments)


def attend(q, k, v, mask):
    """Softmax attention with grouped heads; the softmax is float32.

    Args:
      q: [B, T, H, N]; k, v: [B, S, K, N].
      mask: [B, T, S] bool, True where the query sees the key.

    Returns:
      [B, T, H, N] in q's dtype.
    """
    B, T, H, N = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, H // K, N) * (N**-0.5)
    logits = jnp.einsum("btkgn,bskn->bkgts", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED), axis=-1)
    out = jnp.einsum("bkgts,bskn->btkgn", weights.astype(v.dtype), v)
    return out.reshape(B, T, H, N)


def causal_attention(q, k, v, segment_ids):
    """Causal attention within segments, in chunks of queries that skip the keys they cannot see.

    Args:
      q: [B, T, H, N]; k, v: [B, T, K, N]; segment_ids: [B, T] int32, 0 is padding.
    """
    T = q.shape[1]
    index = jnp.arange(T)
    out = []
    for start in range(0, T, CHUNK):
        end = min(start + CHUNK, T)
        mask = index[start:end, None] >= index[None, :end]
        mask = mask[None] & (segment_ids[:, start:end, None] == segment_ids[:, None, :end])
        out.append(attend(q[:, start:end], k[:, :end], v[:, :end], mask))
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)


def cached_attention(q, k, v, cache: KVCache, layer, slot, segment_ids):
    """Writes T new keys and values at `slot` of one layer and attends to all slots so far.

    Args:
      q: [B, T, H, N]; k, v: [B, T, K, N]; layer, slot: int32 scalars.
      segment_ids: [B, T] of the new tokens; `cache.segment_ids` holds them already.

    Returns:
      ([B, T, H, N], the cache with this layer's slots filled).
    """
    T, S = q.shape[1], cache.keys.shape[2]
    start = (layer, 0, slot, 0, 0)
    keys = jax.lax.dynamic_update_slice(cache.keys, k[None].astype(cache.keys.dtype), start)
    values = jax.lax.dynamic_update_slice(cache.values, v[None].astype(cache.values.dtype), start)
    mask = slot + jnp.arange(T)[:, None] >= jnp.arange(S)[None, :]
    mask = mask[None] & (segment_ids[:, :, None] == cache.segment_ids[:, None, :])
    out = attend(
        q,
        jax.lax.dynamic_index_in_dim(keys, layer, keepdims=False),
        jax.lax.dynamic_index_in_dim(values, layer, keepdims=False),
        mask,
    )
    return out, cache._replace(keys=keys, values=values)
