"""Products of activations with a weight, as XLA computes them fastest on every platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.sharding import platform


def materialized(x):
    """x [n, …]; on CPU behind a gather of all its rows, through which XLA fuses and folds nothing
    (an optimization barrier it drops before it does)."""
    return x[jnp.arange(x.shape[0])] if platform() == "cpu" else x


def product(x, w):
    """x @ w; bfloat16 on CPU by way of float32, which XLA hands to the instructions for it."""
    if x.dtype == jnp.bfloat16 and platform() == "cpu":
        return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)
    return jnp.matmul(x, w)


@jax.custom_vjp
def linear(x, w):
    """x [..., D] @ w [D, F] -> [..., F].

    The gradient is written out because XLA's fast matmuls on CPU turn the right side of a product
    but not the left: for a weight's, what is left is turned before. The mathematics is the ordinary
    product's.
    """
    return product(x, w)


def _linear_fwd(x, w):
    return linear(x, w), (x, w)


def _linear_bwd(saved, g):
    x, w = saved
    x2d, g2d = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if x2d.shape[1] > g2d.shape[1] and platform() == "cpu":
        # The smaller one is turned.
        return product(g, w.T), materialized(product(materialized(g2d.T), x2d)).T
    return product(g, w.T), product(materialized(x2d.T), g2d)


linear.defvjp(_linear_fwd, _linear_bwd)
