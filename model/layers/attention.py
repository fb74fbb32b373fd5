"""Self-attention of one layer: projections, rotary positions, a backend or the cache.

Axes: B batch, T length, D embed, H query heads, K key/value heads, N head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array

from model import taps
from model.config import TransformerConfig
from model.kernels.dispatch import attention, prompt_attention
from model.kernels.plain import tapped_attention
from model.layers.kv_cache import KVCache, cached_attention, extend, kv_repeats
from model.layers.norm import rms_norm
from model.layers.projection import project
from model.layers.rotary import rope, rotary_settings, rotate
from model.sharding import constrain
from model.taps import tap


class Rows(NamedTuple):
    """Places of the tokens of a call in their rows.

    Attributes:
      positions: [B, T] int32 within a segment. segment_ids: [B, T] int32; 0 is padding.
      slot: the cache's column of the first token, or [B] a column a row; None: the cache is empty,
        or there is none.
      branch_ids: [B, T] int32 where segments fork (model/kernels/plain.py), or None.
      last: the number of last positions whose output is wanted; 0: all.
      rotations: {kind of layer: `rotation` of the positions}, where that is not computed in each
        layer, or None.
    """

    positions: Array
    segment_ids: Array
    slot: Array | int | None = None
    branch_ids: Array | None = None
    last: int = 0
    rotations: Mapping[str, tuple[Array, Array]] | None = None


# What a layer hands to the next: the residual stream [B, T, D], the cache or None, and the index of
# the layer in the cache.
Carry: TypeAlias = tuple[Array, KVCache | None, Array | int]


def self_attention(
    config: TransformerConfig, kind: str, params: Mapping, x: Array, cache: KVCache | None,
    layer: Array | int, rows: Rows, last: int,
) -> tuple[Array, KVCache | None]:  # fmt: skip
    """[B, T, D] -> ([B, T, D], the extended cache or None).

    Args:
      kind: `global` or `local`. layer: index of the layer in the cache.
      last: compute only this many last positions: the result is [B, last, D]; 0: all.
    """
    c = config
    B, T, _ = x.shape
    H, K, N = c.num_heads, c.num_kv_heads, c.head_dim
    length = "act_length" if cache is None else "act_slot"
    kv_heads = "act_replicated_kv_heads" if c.replicate_kv_heads else "act_kv_heads"
    positions, segment_ids, slot, branch_ids, _, rotations = rows

    query_x, query_positions, query_segments = x, positions, segment_ids
    if last:
        query_x, query_positions, query_segments = (
            a[:, -last:] for a in (x, positions, segment_ids)
        )
    q = project(params, "query", query_x).reshape(B, -1, H, N)
    k = project(params, "key", x).reshape(B, T, K, N)
    v = project(params, "value", x).reshape(B, T, K, N)
    if c.attention_bias:
        q = q + params["query_bias"].astype(x.dtype)
        k = k + params["key_bias"].astype(x.dtype)
        v = v + params["value_bias"].astype(x.dtype)
    q = constrain(q, "act_batch", length, "act_heads", "act_head_dim")
    k = constrain(k, "act_batch", length, kv_heads, "act_head_dim")
    v = constrain(v, "act_batch", length, kv_heads, "act_head_dim")
    if c.qk_norm:
        q, k = rms_norm(q, params["query_norm"], c), rms_norm(k, params["key_norm"], c)
    if rotations:
        q, k = rotate(q, *rotations[kind]), rotate(k, *rotations[kind])
    else:
        base, scaling = rotary_settings(c, kind)
        q, k = rope(q, query_positions, base, scaling), rope(k, positions, base, scaling)
    q, k, v = (tap(f"attention.{n}", a) for n, a in (("query", q), ("key", k), ("value", v)))
    if (repeats := kv_repeats(c)) > 1:
        k, v = (
            constrain(jnp.repeat(a, repeats, axis=2),
                      "act_batch", length, "act_kv_heads", "act_head_dim")
            for a in (k, v)
        )  # fmt: skip
    settings: dict[str, Any] = dict(
        window=c.window if kind == "local" else 0,
        softcap=c.attention_softcap,
        scale=c.attention_scale,
    )
    if taps.active() and cache is None:
        out = tapped_attention(q, k, v, segment_ids, branch_ids, **settings)
    elif cache is None:
        out = attention(q, k, v, segment_ids, c, branch_ids, **settings)
    else:
        cache = extend(cache, k, v, layer, 0 if slot is None else slot, c)
        if slot is None and not last:
            out = prompt_attention(q, k, v, segment_ids, c, **settings)
        else:
            first = T - last if slot is None else slot
            out = cached_attention(q, cache, layer, first, query_segments, c, **settings)
    return project(params, "out", out), cache
