"""Forms of operations that XLA compiles to faster programs on TPU.

Each has the result of the plain operation. docs/log.md has what they save.

Axes: B batch, T length, N head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from model.sharding import PARAMETER_AXES, constrain, platform

# The checkpoint name of a softmax's normalizer.
LOG_Z = "log_z"


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


# Axes of the inputs of the weights [*inputs, D] whose product is added to the residual stream.
TO_STREAM = {"out": ("heads", "head_dim"), "down": ("mlp",)}


def stream_first(name: str, w: Array) -> Array:
    """A weight of `TO_STREAM` [*inputs, D] as [D, *inputs], gathered.

    A weight whose last axis is split would be gathered along it, and laid out anew after that: it
    is transposed before it is gathered, which takes a constraint on either side. Axes of length 1,
    as of scales, are not split.
    """
    w, axes = jnp.moveaxis(w, -1, 0), TO_STREAM[name]
    if w.shape[1:] == (1,) * len(axes):
        return w
    w = constrain(w, "embed", *axes, table=PARAMETER_AXES)
    return constrain(w, "act_embed", *(f"act_{axis}" for axis in axes))


def projects(x: Array, w: Any) -> bool:
    """Whether a product of x [B, T, …] with a layer's weight is `project`'s: with an array that is
    neither quantized nor in another form, of more than one token a row."""
    return platform() == "tpu" and isinstance(w, jax.Array) and x.shape[1] > 1


def project(name: str, x: Array, w: Array) -> Array:
    """x [B, T, *inputs] @ w [*inputs, *outputs] -> [B, T, F].

    Heads stay an axis of their own, in products and gradients: as one axis with N they would be
    copied to other tiles. Attention kernels write [B, heads, T, N]: their transpose to the axes of
    x is undone.
    """
    if name not in TO_STREAM:
        out = jax.lax.dot_general(x, w, (((2,), (0,)), ((), ())))
        return out.reshape(*x.shape[:2], -1)
    w = stream_first(name, w)
    if w.ndim == 2:
        return jax.lax.dot_general(x, w, (((2,), (1,)), ((), ())))
    return jax.lax.dot_general(x.swapaxes(1, 2), w, (((1, 3), (1, 2)), ((), ())))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def shard_gradient(w: Array, axes: tuple[str, ...]) -> Array:
    """A weight, unchanged, whose gradient is divided between the devices where it is computed.

    XLA adds up all of a gradient on every device and cuts its part out where it is read: of the
    vocabulary that is after the backward pass of all layers.

    Args:
      axes: names of the axes of the weight as a parameter.
    """
    return w


def _shard_gradient_bwd(axes, _, g):
    return (jax.lax.optimization_barrier(constrain(g, *axes, table=PARAMETER_AXES)),)


shard_gradient.defvjp(lambda w, axes: (w, None), _shard_gradient_bwd)


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


@jax.custom_vjp
def log_probs(x: Array, ids: Array) -> tuple[Array, Array]:
    """(log softmax of x [..., V] at ids [...], log Z), both [...] float32.

    One pass over x sums the exponentials and what stands at the ids; a gather would need all of x
    in memory, in float32. The backward pass reads log Z, and sums nothing again.
    """
    top = jnp.max(x, axis=-1)
    at_ids = jnp.where(jnp.arange(x.shape[-1]) == ids[..., None], x, 0.0)
    total, picked = jax.lax.reduce(
        (jnp.exp(x - top[..., None]), at_ids), (np.float32(0), np.float32(0)),
        lambda a, b: (a[0] + b[0], a[1] + b[1]), (x.ndim - 1,),
    )  # fmt: skip
    log_z = top + jnp.log(total)
    return picked - log_z, log_z


def _log_probs_fwd(x, ids):
    logp, log_z = log_probs(x, ids)
    log_z = checkpoint_name(log_z, LOG_Z)
    return (logp, log_z), (x, ids, log_z)


def _log_probs_bwd(saved, g):
    x, ids, log_z = saved
    of_logp, of_log_z = (d[..., None] for d in g)
    is_id = jnp.arange(x.shape[-1]) == ids[..., None]
    dx = jnp.exp(x - log_z[..., None]) * (of_log_z - of_logp)
    return dx + jnp.where(is_id, of_logp, 0.0), None


log_probs.defvjp(_log_probs_fwd, _log_probs_bwd)
