"""Rotary positions, and the scaling of their wavelengths for a longer context.

Axes: B batch, T length, N head size.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from model.config import RopeScaling, TransformerConfig
from model.cpu import compute_once
from model.kernels import tpu
from model.sharding import platform


def rope(x: Array, positions: Array, base: float, scaling: RopeScaling | None = None) -> Array:
    """Rotates pairs (i, i + N/2) of x [B, T, heads, N] by position (arXiv:2104.09864)."""
    return rotate(x, *rotation(positions, x.shape[-1], base, scaling))


def rotation(
    positions: Array, head_dim: int, base: float, scaling: RopeScaling | None = None
) -> tuple[Array, Array]:
    """(cosines, sines) of the angles of each position, for `rotate`: [B, T, 1, N/2] float32; on
    TPU [B, T, 1, N], both halves equal."""
    half = head_dim // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling:
        frequency = stretch(frequency, scaling)
    if platform() == "tpu":
        frequency = jnp.concatenate([frequency, frequency])
    angle = positions[..., None].astype(jnp.float32) * frequency  # [B, T, N/2]
    cos, sin = (compute_once(f(angle))[:, :, None] for f in (jnp.cos, jnp.sin))
    return cos, sin


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates pairs (i, i + N/2) of x [B, T, heads, N] by the angles of `rotation`."""
    if platform() == "tpu":
        return tpu.rotate(x, cos, sin)
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def stretch(frequency: Array | np.ndarray, scaling: RopeScaling) -> Array | np.ndarray:
    """Frequencies [N/2] for a context `scaling.factor` times as long.

    `linear` is position interpolation (Chen et al. 2023, arXiv:2306.15595). `llama3` divides the
    low frequencies alone (the rope scaling of Llama 3.1, arXiv:2407.21783, as its code has it).
    """
    if scaling.kind == "linear":
        return frequency / scaling.factor
    rotations = scaling.original_length * frequency / (2 * np.pi)  # within the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    unscaled = jnp.clip((rotations - low) / (high - low), 0.0, 1.0)  # 1 at high frequencies
    return frequency * (unscaled + (1 - unscaled) / scaling.factor)


def rotary_settings(config: TransformerConfig, kind: str) -> tuple[float, RopeScaling | None]:
    """(base, scaling) of a kind of layer, for `rope`."""
    if config.local_rope_base and kind == "local":
        return config.local_rope_base, None
    return config.rope_base, config.rope_scaling
