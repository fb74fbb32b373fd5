"""RMSNorm. Axes: D size of the normalised axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from model.config import TransformerConfig

# The checkpoint name of a norm's mean of squares, by which the backward pass need not read all of x
# for its sum again.
MEAN_SQUARE = "mean_square"


def rms_norm(x: Array, scale: Array, config: TransformerConfig) -> Array:
    """x [..., D] / rms(x) * scale [D], in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    mean_square = checkpoint_name(jnp.mean(x32 * x32, axis=-1, keepdims=True), MEAN_SQUARE)
    inverse = jax.lax.rsqrt(mean_square + config.norm_eps)
    if config.norm_offset:
        scale = 1.0 + scale
    return (x32 * inverse * scale).astype(x.dtype)


def fence_norm(config: TransformerConfig, x: Array) -> Array:
    """An optimization barrier between a norm and a matmul, in models of Gemma's form.

    Without it XLA:TPU computes the norm within each matmul, which is no faster and takes twice as
    long to compile.
    """
    return jax.lax.optimization_barrier(x) if config.post_norms else x
