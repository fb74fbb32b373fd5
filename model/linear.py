"""Products of activations with a weight, as XLA computes them fastest on every platform."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.sharding import batch_shards, platform


def materialized(x):
    """x [n, …]; on CPU behind a gather of all its rows, through which XLA fuses and folds nothing
    (an optimization barrier it drops before it does)."""
    return x[jnp.arange(x.shape[0])] if platform() == "cpu" else x


def product(x, w):
    """x @ w; bfloat16 on CPU by way of float32, which XLA hands to the instructions for it."""
    if x.dtype == jnp.bfloat16 and platform() == "cpu":
        return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)
    return jnp.matmul(x, w)


# Rows on a device of a product that is quicker as its transpose.
FEW = 32


class Turned(NamedTuple):
    """A weight [D, F] kept as [F, D], for products of a few rows on CPU (`turned`)."""

    rows: jax.Array


def turned(x, w) -> bool:
    """Whether `linear(x, w)` computes the transpose of the product.

    XLA's fast matmuls on CPU copy the right side of a product into tiles, every time, and read the
    left as it lies. So of a few rows, as in decoding, a weight is better the left side.
    """
    if not isinstance(w, Turned) or platform() != "cpu":
        return False
    mesh = jax.sharding.get_abstract_mesh()
    return x.size <= FEW * x.shape[-1] * (1 if mesh.empty else batch_shards(mesh))


def linear(x, w):
    """x [..., D] @ w [D, F], an array or `Turned` -> [..., F]. No gradient is to be taken of what
    is turned: it would be slow."""
    if not isinstance(w, Turned):
        return _linear(x, w)
    if platform() != "cpu":
        return product(x, w.rows.T)
    x2d = x.reshape(-1, x.shape[-1])
    # With a `.T` in place of these axes, XLA on CPU leaves the instructions for bfloat16 unused.
    inner = partial(
        jax.lax.dot_general,
        dimension_numbers=(((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if not turned(x, w):
        out = inner(x2d, w.rows)
    elif len(w.rows) % 2:
        out = materialized(inner(w.rows, x2d)).T
    else:  # A plain `.T` it would fold into the product; a gather takes longer than this.
        out = inner(w.rows, x2d).reshape(2, len(w.rows) // 2, -1)
        out = out.transpose(2, 0, 1).reshape(len(x2d), -1)
    return out.astype(x.dtype).reshape(*x.shape[:-1], len(w.rows))


@jax.custom_vjp
def _linear(x, w):
    """`linear` with an array.

    The gradient is written out because XLA's fast matmuls on CPU turn the right side of a product
    but not the left: for a weight's, what is left is turned before. The mathematics is the ordinary
    product's.
    """
    return product(x, w)


def _linear_fwd(x, w):
    return _linear(x, w), (x, w)


def _linear_bwd(saved, g):
    x, w = saved
    x2d, g2d = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if x2d.shape[1] > g2d.shape[1] and platform() == "cpu":
        # The smaller one is turned.
        return product(g, w.T), materialized(product(materialized(g2d.T), x2d)).T
    return product(g, w.T), product(materialized(x2d.T), g2d)


_linear.defvjp(_linear_fwd, _linear_bwd)
