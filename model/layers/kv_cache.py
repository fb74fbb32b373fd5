"""The key-value cache: an explicit pytree that decoding extends, and attention over it.

Axes: B batch, T query length, S slots of the cache, H query heads, K key/value heads, N head size,
L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from model import cpu, quantized
from model.config import TransformerConfig
from model.kernels.base import einsum32, sees
from model.kernels.cache_write import write_column
from model.kernels.plain import softmax_parts
from model.sharding import constrain, platform


class Int8(NamedTuple):
    """Keys or values in int8, with a scale for each vector of a slot.

    Attributes:
      values: [..., K, S, N] or [..., K, N, S] int8. scales: [..., K, 1, S] float32.
    """

    values: Array
    scales: Array


class KVCache(NamedTuple):
    """Keys and values of all layers for decoding. Slots are columns of the padded row.

    Attributes:
      keys, values: [L, B, K, S, N] in `cpu.cache_dtype`, or L of [B, K, S, N]; on CPU keys may be
        [..., N, S] (`keys_transposed`). A head's slots are contiguous, as decoding reads them: in
        any other order XLA on CPU copies the whole cache at every step. With `Sampling.int8_cache`
        each is an `Int8`.
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
    config: TransformerConfig, batch: int, length: int, split_layers: bool = False,
    int8: bool = False,
) -> KVCache:  # fmt: skip
    """An empty cache for `batch` rows of at most `length` slots.

    Args:
      split_layers: an array a layer, for parameters that are split too (model/layers/stack.py).
    """

    def zeros(transposed):
        slots = (config.head_dim, length) if transposed else (length, config.head_dim)
        shape = (batch, config.num_kv_heads * kv_repeats(config), *slots)
        axes = _cache_axes(transposed)
        if not split_layers:
            shape, axes = (config.num_layers, *shape), ("act_layers", *axes)
        if int8:
            scales = constrain(jnp.zeros((*shape[:-2], 1, length), jnp.float32), *axes)
            layers = Int8(constrain(jnp.zeros(shape, jnp.int8), *axes), scales)
        else:
            dtype = cpu.cache_dtype(config.activation_dtype)
            layers = constrain(jnp.zeros(shape, dtype), *axes)
        return (layers,) * config.num_layers if split_layers else layers

    segments = constrain(jnp.zeros((batch, length), jnp.int32), "act_batch", "act_slot")
    return KVCache(zeros(keys_transposed(config)), zeros(False), segments)


def map_arrays(function: Callable[..., Array], transposed: bool, *caches: Any) -> Any:
    """Keys or values of which each array is function(*arrays of the caches, transposed): whether
    its slots are its last axis."""
    first = caches[0]
    if isinstance(first, Int8):
        values, scales = zip(*caches, strict=True)
        return Int8(function(*values, transposed), function(*scales, True))
    if isinstance(first, tuple):
        layers = zip(*caches, strict=True)
        return tuple(map_arrays(function, transposed, *own) for own in layers)
    return function(*caches, transposed)


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
        split = isinstance(old, tuple) and not isinstance(old, Int8)
        own = old[layer] if split else old
        new = new.transpose(0, 2, 3, 1) if transposed else new.swapaxes(1, 2)
        if isinstance(own, Int8):
            stored = quantized.quantize_vectors(new, axis=-2 if transposed else -1)
            scales = stored.scale if transposed else stored.scale.swapaxes(-1, -2)
            new = Int8(stored.qvalue, scales)
        else:
            new = new.astype(own.dtype)
        index = None if split else layer
        updated = map_arrays(partial(_write, layer=index, slot=slot), transposed, own, new)
        return (*old[:layer], updated, *old[layer + 1 :]) if split else updated

    keys = write(cache.keys, k, keys_transposed(config))
    values = write(cache.values, v, transposed=False)
    return cache._replace(keys=keys, values=values)


def _write(
    old: Array, new: Array, slots_last: bool, layer: Array | int | None, slot: Array | int
) -> Array:
    """old [(L,) B, K, S, N] with new [B, K, T, N] at the slots from `slot` on of a layer; the last
    two axes of both are the other way round with `slots_last`."""
    axis = -1 if slots_last else -2
    if platform() == "tpu" and new.shape[axis] == 1:
        layers, slots = old if old.ndim == 5 else old[None], jnp.broadcast_to(slot, len(new))
        index = 0 if layer is None else layer
        write = _write_selected if slots_last else write_column
        return write(layers, new, index, slots).reshape(old.shape)
    if layer is None:
        return write_slots(old, new, slot, axis)

    def update(layers, rows, slot):
        start = [layer, *[0] * rows.ndim]
        start[axis] = slot
        return jax.lax.dynamic_update_slice(layers, rows[None], start)

    return (jax.vmap(update, (1, 0, 0), 1) if jnp.ndim(slot) else update)(old, new, slot)


def _write_selected(layers: Array, new: Array, layer: Array | int, slots: Array) -> Array:
    """layers [L, B, K, 1, S] with new [B, K, 1, 1] at the slots [B] of one layer, by writing all of
    its slots: for scales, which are few."""
    old = jax.lax.dynamic_index_in_dim(layers, layer, keepdims=False)
    is_new = jnp.arange(old.shape[-1]) == slots[:, None, None, None]
    return jax.lax.dynamic_update_index_in_dim(layers, jnp.where(is_new, new, old), layer, 0)


def _layer(x: Any, layer: Array | int) -> Any:
    """The keys or values of a layer."""
    if isinstance(x, tuple) and not isinstance(x, Int8):
        return x[layer]
    return jax.tree.map(
        lambda layers: jax.lax.dynamic_index_in_dim(layers, layer, keepdims=False), x
    )


def _factors(x: Any, config: TransformerConfig) -> tuple[Array, Array | float]:
    """(keys or values to multiply by, the scale of each in the product [B, K, 1, S], or 1)."""
    if not isinstance(x, Int8):
        return x, 1.0
    return x.values.astype(cpu.cache_dtype(config.activation_dtype)), x.scales


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
    (keys, key_scales), (values, value_scales) = (
        _factors(_layer(x, layer), config) for x in (cache.keys, cache.values)
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
    logits = einsum32(product, q, keys) * key_scales
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    mask = jnp.repeat(mask, H // K, axis=1)[:, None]  # [B, 1, M, S]
    weights, inverse = softmax_parts(logits, mask)
    weights = weights * value_scales
    out = einsum32("bkms,bksn->bkmn", weights.astype(values.dtype), values) * inverse
    return out.astype(dtype).reshape(B, K, T, -1, N).swapaxes(1, 2).reshape(B, T, H, N)
