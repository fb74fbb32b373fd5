"""Attention over packed rows, and the key-value cache.

Axes: B batch, T query length, S key length (cache length when decoding), H query heads, K key/value
heads, G = H // K query heads a key head, N head size, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model import kernels, sequence
from model.config import TransformerConfig
from model.kernels import MASKED, einsum32, sees
from model.sharding import ACTIVATION_AXES, batch_shards, constrain, partition_spec, platform

# Queries in a chunk. A chunk reads only the keys up to its end, which saves causal attention half
# of its work; on accelerators the matmuls of short rows would only get smaller.
CHUNK = 64


class KVCache(NamedTuple):
    """What decoding remembers, for all layers. Slots are columns of the padded row.

    Attributes:
      keys, values: [L, B, K, S, N] in `cache_dtype`, or L of [B, K, S, N]; on CPU keys may be
        [..., N, S] (`keys_turned`). A head's slots lie together, as decoding reads them: in any
        other order XLA on CPU copies the whole cache at every step.
      segment_ids: [B, S] int32; 0 is an empty slot or padding, never attended to.
    """

    keys: jax.Array | tuple[jax.Array, ...]
    values: jax.Array | tuple[jax.Array, ...]
    segment_ids: jax.Array


def kv_repeats(config: TransformerConfig) -> int:
    """How often each key and value head is there, so that the mesh axis `tensor` divides them.

    1 but for `config.replicate_kv_heads`.
    """
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return shards // math.gcd(config.num_kv_heads, shards) if config.replicate_kv_heads else 1


def keys_turned(config: TransformerConfig) -> bool:
    """Whether the cache's keys are [..., N, S].

    On CPU, where several query heads read a key head: a core then adds up many slots' products side
    by side, where one slot's would be a sum along its registers. For a single head that gains
    nothing, and writing a key to N places costs more.
    """
    grouped = config.num_heads > config.num_kv_heads * kv_repeats(config)
    return grouped and platform() == "cpu"


def _cache_axes(turned: bool):
    last = ("act_slot", "act_head_dim")
    return ("act_batch", "act_kv_heads", *(reversed(last) if turned else last))


def cache_dtype(config: TransformerConfig):
    """What keys and values are kept in: the activations' dtype; on CPU float32. XLA writes into a
    bfloat16 array there by turning the whole of it into float32 and back, at every token."""
    return jnp.float32 if platform() == "cpu" else config.activation_dtype


def init_cache(
    config: TransformerConfig, batch: int, length: int, split_layers: bool = False
) -> KVCache:
    """An empty cache for `batch` rows of at most `length` slots.

    Args:
      split_layers: an array a layer, for parameters that are split too (model/block.py).
    """

    dtype = cache_dtype(config)

    def zeros(turned):
        last = (config.head_dim, length) if turned else (length, config.head_dim)
        shape = (batch, config.num_kv_heads * kv_repeats(config), *last)
        if split_layers:
            layer = constrain(jnp.zeros(shape, dtype), *_cache_axes(turned))
            return (layer,) * config.num_layers
        layers = jnp.zeros((config.num_layers, *shape), dtype)
        return constrain(layers, "act_layers", *_cache_axes(turned))

    segments = constrain(jnp.zeros((batch, length), jnp.int32), "act_batch", "act_slot")
    return KVCache(zeros(keys_turned(config)), zeros(False), segments)


def repeat_rows(cache: KVCache, times: int) -> KVCache:
    """Every row of a cache `times` times, one after another."""

    def repeat(x):
        # Turned keys are placed alike: neither slots nor a head's numbers are ever split.
        axes = ("act_layers", *_cache_axes(turned=False))[-x.ndim :]
        return constrain(jnp.repeat(x, times, axis=x.ndim - 4), *axes)

    keys, values = (jax.tree.map(repeat, x) for x in (cache.keys, cache.values))
    segments = jnp.repeat(cache.segment_ids, times, axis=0)
    return KVCache(keys, values, constrain(segments, "act_batch", "act_slot"))


def _exponentials(logits, mask):
    """A softmax of what `mask` shows, float32, in two parts: e^logits [..., S] and one over their
    sum [..., 1].

    The second is for the product with the values, which has fewer columns than there are keys; and
    no gradient then sums over the keys.
    """
    logits = jnp.where(mask, logits, MASKED)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    return weights, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def attend(q, k, v, mask, *, softcap: float = 0.0, scale: float = 0.0):
    """Softmax attention with grouped heads; the softmax is float32.

    Args:
      q: [B, T, H, N]; k, v: [B, S, K, N].
      mask: [B, T, S] bool, True where the query sees the key.
      softcap: logits x become softcap·tanh(x / softcap); 0 leaves them.
      scale: of the queries; 0 is 1/√N.

    Returns:
      [B, T, H, N] in q's dtype.
    """
    B, T, H, N = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, H // K, N) * (scale or N**-0.5)
    logits = einsum32("btkgn,bskn->bkgts", q, k)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    weights, inverse = _exponentials(logits, mask[:, None, None])
    out = einsum32("bkgts,bskn->bkgtn", weights.astype(v.dtype), v) * inverse
    return out.astype(v.dtype).transpose(0, 3, 1, 2, 4).reshape(B, T, H, N)


def visible(queries, keys, window: int):
    """[T, S] bool: the key's index is not after the query's, nor `window` or more before it."""
    return sees(queries[:, None], keys[None, :], window)


def causal_attention(
    q, k, v, segment_ids, branch_ids=None,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
):  # fmt: skip
    """Causal attention within segments, in chunks of queries that skip the keys they cannot see.

    Args:
      q: [B, T, H, N]; k, v: [B, T, K, N]; segment_ids: [B, T] int32, 0 is padding. A segment's
        tokens are neighbours, so that an index counts its positions.
      branch_ids: [B, T] int32, or None. A segment may fork: branch 0 is its trunk, and a token sees
        the keys of the trunk and of its own branch.
      window: keys a query sees at most, its own included; 0 is all.
      softcap, scale: of `attend`.
    """
    T = q.shape[1]
    index = jnp.arange(T)
    out = []
    for start in range(0, T, CHUNK):
        end = min(start + CHUNK, T)
        first = max(start + 1 - window, 0) if window else 0
        mask = visible(index[start:end], index[first:end], window)
        mask = mask[None] & (segment_ids[:, start:end, None] == segment_ids[:, None, first:end])
        if branch_ids is not None:
            theirs = branch_ids[:, None, first:end]
            mask &= (theirs == 0) | (theirs == branch_ids[:, start:end, None])
        args = q[:, start:end], k[:, first:end], v[:, first:end], mask
        out.append(attend(*args, softcap=softcap, scale=scale))
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)


def attention(
    q, k, v, segment_ids, config: TransformerConfig, branch_ids=None,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
):  # fmt: skip
    """Causal attention within segments, by the backend that `config.attention` names.

    Each device computes its rows and heads; over the mesh axis `sequence` also its share of the
    queries, to which it gathers the keys and values of the whole row (model/sequence.py).

    Args:
      q: [B, T, H, N]; k, v: [B, T, K, N]; segment_ids: [B, T] int32. All in the order of
        `sequence.split`, which is the row's own without a `sequence` axis.
      branch_ids: of `causal_attention`, which then computes it on every platform.
      window, softcap, scale: as for `causal_attention`.

    Returns:
      [B, T, H, N].

    Raises:
      kernels.BackendError: the backend does not run on this platform or with this architecture.
    """
    B, T, H, N = q.shape
    shards = sequence.shards()
    length = T // shards
    if branch_ids is not None:
        kernels.check_branches(config.attention, length, shards, window)
        out = causal_attention(q, k, v, segment_ids, branch_ids, softcap=softcap, scale=scale)
        return checkpoint_name(out, kernels.RESIDUALS)
    backend = kernels.choose(config.attention, platform(), length, N, q.dtype, softcap)
    if backend == "xla" and shards == 1:
        out = causal_attention(q, k, v, segment_ids, window=window, softcap=softcap, scale=scale)
        return checkpoint_name(out, kernels.RESIDUALS)
    # Blocks within one run of neighbours see the fewest keys.
    block = min(config.attention_block, length // 2 if shards > 1 else length)
    settings = kernels.Settings(window, softcap, scale, block, config.attention_compute_block)
    order = sequence.order(T, shards)
    if backend == "splash":
        plan = kernels.splash_kernel(order, T, H // k.shape[2], settings)
    elif backend == "chunked":
        plan = jnp.asarray(order), jnp.asarray(kernels.visible_blocks(order, T, settings))
    else:
        plan = (jnp.asarray(order),)
    run = partial(_on_device, backend, settings, shards)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(q, k, v, segment_ids, plan)
    # Rows that the mesh does not divide (a last batch, a single prompt) every device computes.
    rows = P(None) if B % batch_shards(mesh) else partition_spec(("act_batch",), ACTIVATION_AXES)

    def spec(*names):
        return P(*rows, *partition_spec(names, ACTIVATION_AXES, "attention"))

    heads = spec("act_length", "act_heads", "act_head_dim")
    kv_heads = spec("act_length", "act_kv_heads", "act_head_dim")
    if backend == "splash":
        plan_spec = plan.manual_sharding_spec(NamedSharding(mesh, P(None, sequence.AXIS)))
    else:
        plan_spec = P(sequence.AXIS)
    return jax.shard_map(
        run,
        in_specs=(heads, kv_heads, kv_heads, spec("act_length"), plan_spec),
        out_specs=heads,
        check_vma=False,  # Pallas calls do not say over which axes their results vary
    )(q, k, v, segment_ids, plan)


def _on_device(backend, settings, shards, q, k, v, segment_ids, plan):
    """Attention of one device's queries to the keys of its rows; arrays as it holds them."""
    kv_segments = segment_ids
    if shards > 1:
        k, v, kv_segments = (sequence.gather(x) for x in (k, v, segment_ids))
    if backend == "splash":
        return kernels.splash(q, k, v, segment_ids, kv_segments, plan, settings)
    order, *blocks = (x[0] for x in plan)  # this shard's
    if backend == "chunked":
        return kernels.chunked(q, k, v, segment_ids, kv_segments, order, *blocks, settings)
    if backend == "cudnn":
        out = kernels.cudnn(q, k, v, segment_ids, kv_segments, order, settings)
        return checkpoint_name(out, kernels.RESIDUALS)
    mask = visible(order, jnp.arange(k.shape[1]), settings.window)
    mask = mask[None] & (segment_ids[:, :, None] == kv_segments[:, None, :])
    out = attend(q, k, v, mask, softcap=settings.softcap, scale=settings.scale)
    return checkpoint_name(out, kernels.RESIDUALS)


def extend(cache: KVCache, k, v, layer, slot, config: TransformerConfig) -> KVCache:
    """The cache with k, v [B, T, K, N] at the slots from `slot` on of one layer."""

    def write(held, new, turned):
        new = new.transpose(0, 2, 3, 1) if turned else new.swapaxes(1, 2)
        new = new.astype(held[layer].dtype if isinstance(held, tuple) else held.dtype)
        place = (0, 0, 0, slot) if turned else (0, 0, slot, 0)
        if isinstance(held, tuple):
            put = jax.lax.dynamic_update_slice(held[layer], new, place)
            return (*held[:layer], put, *held[layer + 1 :])
        return jax.lax.dynamic_update_slice(held, new[None], (layer, *place))

    keys, values = write(cache.keys, k, keys_turned(config)), write(cache.values, v, turned=False)
    return cache._replace(keys=keys, values=values)


def prompt_attention(q, k, v, segment_ids, config: TransformerConfig, **settings):
    """`attention` of a prompt that is the first in a cache: over itself alone.

    Prompts are of any length, so it takes the platform's best backend for theirs. They are not
    split over the mesh axis `sequence`.
    """
    if sequence.shards() > 1:
        return causal_attention(q, k, v, segment_ids, **settings)
    config = dataclasses.replace(config, attention="auto")
    return attention(q, k, v, segment_ids, config, **settings)


def cached_attention(
    q, cache: KVCache, layer, slot, segment_ids, config: TransformerConfig,
    *, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
):  # fmt: skip
    """Attention of T queries at `slot` to all slots so far; the same as `attend` computes.

    Args:
      q: [B, T, H, N]; layer, slot: int32 scalars.
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
    mask = visible(slot + jnp.arange(T), jnp.arange(S), window)
    mask = mask[None] & (segment_ids[:, :, None] == cache.segment_ids[:, None, :])
    # One matrix a key head, of all its queries: M = T·G rows.
    dtype = q.dtype
    q = q.reshape(B, T, K, H // K, N).swapaxes(1, 2).reshape(B, K, -1, N)
    q = q.astype(keys.dtype) * (scale or N**-0.5)
    product = "bkmn,bkns->bkms" if keys_turned(config) else "bkmn,bksn->bkms"
    logits = einsum32(product, q, keys)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    mask = jnp.repeat(mask, H // K, axis=1)[:, None]  # [B, 1, M, S]
    weights, inverse = _exponentials(logits, mask)
    out = einsum32("bkms,bksn->bkmn", weights.astype(values.dtype), values) * inverse
    return out.astype(dtype).reshape(B, K, T, -1, N).swapaxes(1, 2).reshape(B, T, H, N)
