"""The key-value cache: an explicit pytree that decoding extends, and attention over it.

Axes: B batch, T query length, S slots of the cache, H query heads, K key/value heads, N head size,
L layers.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from model import cpu
from model.config import TransformerConfig
from model.kernels.base import einsum32, sees
from model.kernels.plain import softmax_parts
from model.sharding import constrain


class KVCache(NamedTuple):
    """Keys and values of all layers for decoding. Slots are columns of the padded row.

    Attributes:
      keys, values: [L, B, K, S, N] in `cpu.cache_dtype`, or L of [B, K, S, N]; on CPU keys may be
        [..., N, S] (`keys_transposed`). A head's slots are contiguous, as decoding reads them: in
        any other order XLA on CPU copies the whole cache at every step.
      segment_ids: [B, S] int32; 0 is an empty slot or padding, never attended to.
    """

    keys: Array | tuple[Array, ...]
    values: Array | tuple[Array, ...]
    segment_ids: Array


def kv_repeats(config: TransformerConfig) -> int:
    """The number of copies of each key and value head, such that the mesh axis `tensor` divides
    them; 1 without `config.replicate_kv_heads`."""
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return shards // math.gcd(config.num_kv_heads, shards) if config.replicate_kv_heads else 1


def keys_transposed(config: TransformerConfig) -> bool:
    """Whether the cache's keys are [..., N, S] (model/cpu.py)."""
    return cpu.caches_keys_transposed(
        config.num_heads // (config.num_kv_heads * kv_repeats(config))
    )


def _cache_axes(transposed: bool):
    slot_axes = ("act_slot", "act_head_dim")
    return ("act_batch", "act_kv_heads", *(reversed(slot_axes) if transposed else slot_axes))


def init_cache(
    config: TransformerConfig, batch: int, length: int, split_layers: bool = False
) -> KVCache:
    """An empty cache for `batch` rows of at most `length` slots.

    Args:
      split_layers: an array a layer, for parameters that are split too (model/layers/stack.py).
    """
    dtype = cpu.cache_dtype(config.activation_dtype)

    def zeros(transposed):
        slots = (config.head_dim, length) if transposed else (length, config.head_dim)
        shape = (batch, config.num_kv_heads * kv_repeats(config), *slots)
        if split_layers:
            layer = constrain(jnp.zeros(shape, dtype), *_cache_axes(transposed))
            return (layer,) * config.num_layers
        layers = jnp.zeros((config.num_layers, *shape), dtype)
        return constrain(layers, "act_layers", *_cache_axes(transposed))

    segments = constrain(jnp.zeros((batch, length), jnp.int32), "act_batch", "act_slot")
    return KVCache(zeros(keys_transposed(config)), zeros(False), segments)


def repeat_rows(cache: KVCache, times: int) -> KVCache:
    """A cache with every row repeated `times` times, copies adjacent."""

    def repeat(x):
        # Transposed keys have the same sharding: neither slots nor head sizes are ever split.
        axes = ("act_layers", *_cache_axes(transposed=False))[-x.ndim :]
        return constrain(jnp.repeat(x, times, axis=x.ndim - 4), *axes)

    keys, values = (jax.tree.map(repeat, x) for x in (cache.keys, cache.values))
    segments = jnp.repeat(cache.segment_ids, times, axis=0)
    return KVCache(keys, values, constrain(segments, "act_batch", "act_slot"))


def write_slots(x: Array, new: Array, slot: Array | int, axis: int) -> Array:
    """x [B, …] with `new` at the indices from `slot` on of an axis, which is negative. `slot` is a
    scalar, or [B] with an index a row."""
    write = partial(jax.lax.dynamic_update_slice_in_dim, axis=axis)
    return (jax.vmap(write) if jnp.ndim(slot) else write)(x, new, slot)


def extend(
    cache: KVCache, k: Array, v: Array, layer: Array | int, slot: Array | int,
    config: TransformerConfig,
) -> KVCache:  # fmt: skip
    """The cache with k, v [B, T, K, N] at the slots from `slot` on of one layer.

    `slot` is a scalar, or [B] with a slot a row.
    """

    def write(old, new, transposed):
        new = new.transpose(0, 2, 3, 1) if transposed else new.swapaxes(1, 2)
        new = new.astype(old[layer].dtype if isinstance(old, tuple) else old.dtype)
        axis = -1 if transposed else -2
        if isinstance(old, tuple):
            updated = write_slots(old[layer], new, slot, axis)
            return (*old[:layer], updated, *old[layer + 1 :])

        def update(layers, rows, slot):
            start = [layer, *[0] * rows.ndim]
            start[axis] = slot
            return jax.lax.dynamic_update_slice(layers, rows[None], start)

        update = jax.vmap(update, (1, 0, 0), 1) if jnp.ndim(slot) else update
        return update(old, new, slot)

    keys = write(cache.keys, k, keys_transposed(config))
    values = write(cache.values, v, transposed=False)
    return cache._replace(keys=keys, values=values)


def cached_attention(
    q: Array, cache: KVCache, layer: Array | int, slot: Array | int, segment_ids: Array,
    config: TransformerConfig,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
) -> Array:  # fmt: skip
    """Attention of T queries at `slot` to all slots so far; equal to `attend` over them.

    Args:
      q: [B, T, H, N]; layer: int32 scalar; slot: int32 scalar, or [B] with a slot a row.
      segment_ids: [B, T] of the queries; the cache holds theirs, and their keys and values.
      window, softcap, scale: as for `causal_attention`.

    Returns:
      [B, T, H, N].
    """
    B, T, H, N = q.shape
    keys, values = (
        x[layer] if isinstance(x, tuple) else jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
        for x in (cache.keys, cache.values)
    )  # [B, K, S, N]; keys perhaps [B, K, N, S]
    K, S = values.shape[1:3]
    queries = jnp.reshape(slot, (-1, 1, 1)) + jnp.arange(T)[:, None]
    mask = sees(queries, jnp.arange(S), window)
    mask &= segment_ids[:, :, None] == cache.segment_ids[:, None, :]
    # One matrix a key head, of all its queries: M = T·G rows.
    dtype = q.dtype
    q = q.reshape(B, T, K, H // K, N).swapaxes(1, 2).reshape(B, K, -1, N)
    q = q.astype(keys.dtype) * (scale or N**-0.5)
    product = "bkmn,bkns->bkms" if keys_transposed(config) else "bkmn,bksn->bkms"
    logits = einsum32(product, q, keys)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    mask = jnp.repeat(mask, H // K, axis=1)[:, None]  # [B, 1, M, S]
    weights, inverse = softmax_parts(logits, mask)
    out = einsum32("bkms,bksn->bkmn", weights.astype(values.dtype), values) * inverse
    return out.astype(dtype).reshape(B, K, T, -1, N).swapaxes(1, 2).reshape(B, T, H, N)
