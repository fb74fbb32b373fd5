"""Attention by JAX's Pallas kernel for TPU, which holds no [T, S] matrix.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, G = H // K query
heads a key head, N head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_lib
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from model.kernels.base import INPUTS, LANES, RESIDUALS, Settings


def fit_block(block: int, length: int) -> int:
    """The largest multiple of 128 that is at most `block` and divides `length`, at least 128."""
    fits = [b for b in range(LANES, min(block, length) + 1, LANES) if length % b == 0]
    return fits[-1] if fits else LANES


def splash_kernel(
    order: np.ndarray, length: int, group: int, settings: Settings
) -> splash_lib.SplashAttentionKernel:
    """The kernel of one key head, for `splash`, with its visible blocks computed in advance.

    Args:
      order: [shards, T] int32, the index in the row of each query that a shard holds.
      length: S, keys. group: G.

    Returns:
      A pytree of arrays and functions; `kernel.manual_sharding_spec` shards its queries.
    """
    shards, T = order.shape
    window = (settings.window - 1 if settings.window else None, 0)
    mask = masks.LocalMask((shards * T, length), window, 0)
    mask.q_sequence = order.reshape(-1).astype(np.int32)
    # A shard holds two runs of consecutive tokens (model/context_parallel.py): a block is within
    # one.
    queries = fit_block(settings.block, T // 2 if shards > 1 and T % (2 * LANES) == 0 else T)
    keys = fit_block(settings.block, length)
    compute = fit_block(settings.compute_block, keys)
    sizes = splash_lib.BlockSizes(
        block_q=queries, block_kv=keys, block_kv_compute=compute,
        block_q_dkv=queries, block_kv_dkv=keys, block_kv_dkv_compute=compute,
        block_q_dq=queries, block_kv_dq=keys,
    )  # fmt: skip
    return splash_lib.make_splash_mqa(
        masks.MultiHeadMask([mask] * group),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=shards,
        attn_logits_soft_cap=settings.softcap or None,
        residual_checkpoint_name=RESIDUALS,
        interpret=settings.interpret,
    )


def splash(
    q: Array, k: Array, v: Array, q_segments: Array, kv_segments: Array,
    kernel: splash_lib.SplashAttentionKernel, settings: Settings,
) -> Array:  # fmt: skip
    """q [B, T, H, N]; k, v [B, S, K, N]; segments [B, T], [B, S] -> [B, T, H, N]."""
    B, T, H, N = q.shape
    K = k.shape[2]
    q = (q * (settings.scale or N**-0.5)).reshape(B, T, K, H // K, N)
    q, k, v = q.transpose(0, 2, 3, 1, 4), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    # Saved as the kernel reads them, they are written once.
    q, k, v = map(checkpoint_name, (q, k, v), INPUTS)
    ids = splash_lib.SegmentIds(q_segments, kv_segments)
    over_heads: Callable[..., Any] = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    out = jax.vmap(over_heads)(q, k, v, ids)  # [B, K, G, T, N]
    # Transposed last, which `tpu.project` undoes.
    return out.reshape(B, H, T, N).swapaxes(1, 2)
