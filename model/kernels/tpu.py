"""Forms of operations that XLA compiles to faster programs on TPU.

Each has the result of the plain operation. docs/log.md has what they save.

Axes: B batch, T length, N head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint

from model.sharding import platform


@jax.custom_vjp
def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates pairs (i, i + N/2) of x [B, T, heads, N] by angles, as `rope` does.

    A head is half a register on each side of a split, and XLA writes halves padded to whole
    registers, several times. Here the halves change places in a product with a matrix of 0, 1 and
    -1, which is exact, and the rest is fused into it. The gradient is the rotation back.

    Args:
      cos, sin: [B, T, 1, N] float32, both halves equal.
    """
    turned = jnp.einsum(
        "bthn,nm->bthm", x, _quarter_turn(x.shape[-1], x.dtype),
        preferred_element_type=jnp.float32,
        precision="highest" if x.dtype == jnp.float32 else None,
    )  # fmt: skip
    return (x.astype(jnp.float32) * cos + turned * sin).astype(x.dtype)


def _rotate_fwd(x, cos, sin):
    return rotate(x, cos, sin), (cos, sin)


def _rotate_bwd(saved, g):
    cos, sin = saved
    return rotate(g, cos, -sin), None, None


rotate.defvjp(_rotate_fwd, _rotate_bwd)


def _quarter_turn(size: int, dtype: jnp.dtype) -> Array:
    """The matrix [N, N] that takes (x1, x2), two halves, to (-x2, x1)."""
    half = np.eye(size // 2)
    zero = np.zeros_like(half)
    return jnp.asarray(np.block([[zero, half], [-half, zero]]), dtype)


def row_major(x: Array) -> Array:
    """x, on TPU with its last axis along the registers.

    XLA chooses the layout of a loop's carry, and may choose another one for the backward pass: it
    then copies each array that the forward pass saved.
    """
    if platform() != "tpu":
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(activation: Callable[[Array], Array], gate: Array, up: Array) -> Array:
    """activation(gate) · up, both [..., F].

    The two gradients are written to memory once. Otherwise XLA computes one of them in each of the
    two matmuls that read it, from three arrays.
    """
    return activation(gate) * up


def _gated_fwd(activation, gate, up):
    return gated(activation, gate, up), (gate, up)


def _gated_bwd(activation, saved, g):
    _, pull = jax.vjp(lambda gate, up: activation(gate) * up, *saved)
    return jax.lax.optimization_barrier(pull(g))


gated.defvjp(_gated_fwd, _gated_bwd)


def pick(x: Array, ids: Array) -> Array:
    """x [..., V] at ids [...], as a masked sum: a gather needs all of x in memory, in float32."""
    return jnp.sum(jnp.where(jnp.arange(x.shape[-1]) == ids[..., None], x, 0.0), axis=-1)
