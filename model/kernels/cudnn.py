"""Attention by cuDNN's flash attention on NVIDIA GPUs.

Axes: B batch, T query length, S key length, H query heads, K key/value heads, N head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from model.kernels.base import Settings, visible


def cudnn(
    q: Array, k: Array, v: Array, q_segments: Array, kv_segments: Array, order: Array,
    settings: Settings,
) -> Array:  # fmt: skip
    """Attention by cuDNN; arguments as for `splash`. Segments reach cuDNN as a bias, [B, 1, T, S]
    in the activations' dtype.

    Args:
      order: [T] int32, the index in the row of each query.
    """
    mask = visible(order, jnp.arange(k.shape[1]), settings.window)
    mask = mask[None] & (q_segments[:, :, None] == kv_segments[:, None, :])
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], scale=settings.scale or None, implementation="cudnn"
    )
