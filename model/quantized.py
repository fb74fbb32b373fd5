"""Frozen weights in fewer bits: bfloat16, or int8 with a scale for each layer and output (qwix).

Axes: D inputs, F outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from model import weights
from model.cpu import forward_matmul

DTYPES = ("float32", "bfloat16", "int8")


def is_quantized(x: Any) -> bool:
    """Whether x is a `qwix.QArray`; qwix is imported only where it is used."""
    return hasattr(x, "qvalue")


def quantize(name: str, weight: Array, dtype: DTypeLike = jnp.int8, by_tensor: bool = False) -> Any:
    """Values of an adaptable weight in 8 bits, with one float32 scale for all of its inputs.

    Args:
      weight: float32. by_tensor: one scale for all of a layer's outputs too.
    """
    import qwix

    row = weights.adaptable(name)
    end = weight.ndim if by_tensor else row.stacked + row.inputs
    channels = [i for i in range(weight.ndim) if not row.stacked <= i < end]
    return qwix.quantize(weight, dtype, channelwise_axes=channels)


def dequantize(x: Any, dtype: DTypeLike) -> Array:
    if not is_quantized(x):
        return x.astype(dtype)
    import qwix

    return qwix.dequantize(x).astype(dtype)


def convert(tree: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Weights of layers in a dtype of `DTYPES`; embeddings, norms and heads stay as they are.

    Args:
      tree: of arrays or ShapeDtypeStructs, with NamedShardings. Arrays are converted one by one.
    """
    flat = flatten_dict(tree)
    for path, x in flat.items():
        name = path[-1]
        if dtype == "float32" or not weights.is_adaptable(name) or is_quantized(x):
            continue

        def make(x, name=name):
            return quantize(name, x) if dtype == "int8" else x.astype(jnp.bfloat16)

        def place(like, x=x):
            spec = (*x.sharding.spec, *[None] * x.ndim)[: x.ndim]
            axes = (s if n > 1 else None for s, n in zip(spec, like.shape, strict=True))
            sharding = NamedSharding(x.sharding.mesh, P(*axes))
            return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)

        abstract = jax.tree.map(place, jax.eval_shape(make, x))
        if isinstance(x, jax.ShapeDtypeStruct):
            flat[path] = abstract
        else:
            shardings = jax.tree.map(lambda like: like.sharding, abstract)
            flat[path] = jax.jit(make, out_shardings=shardings)(x)
    return unflatten_dict(flat)


def int8_weights(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`convert` to int8 of all weights at once. Trace it under `jit`."""
    flat = flatten_dict(tree)
    for path, x in flat.items():
        if weights.is_adaptable(path[-1]) and not is_quantized(x):
            flat[path] = quantize(path[-1], x)
    return unflatten_dict(flat)


def quantize_vectors(x: Array, axis: int) -> Any:
    """int8 values of x, with a float32 scale for each vector along an axis."""
    import qwix

    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    return qwix.quantize(x.astype(jnp.float32), jnp.int8, channelwise_axes=others)


def whole(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Float32 weights, with the rounding of `convert`."""
    return unflatten_dict({k: dequantize(x, jnp.float32) for k, x in flatten_dict(tree).items()})


@jax.custom_vjp
def matmul(x: Array, w: Any) -> Array:
    """x [..., D] @ w [D, F], a QArray -> [..., F]. The backward pass saves w alone, and
    computes no gradient of it."""
    return forward_matmul(x, dequantize(w, x.dtype))


def _matmul_fwd(x, w):
    return matmul(x, w), w


def no_gradient(leaf: Array) -> Any:
    """Zero as the gradient of an array, for a `custom_vjp`."""
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.zeros_like(leaf) if floating else np.zeros(leaf.shape, jax.dtypes.float0)


def _matmul_bwd(w, g):
    return forward_matmul(g, dequantize(w, g.dtype).T), jax.tree.map(no_gradient, w)


matmul.defvjp(_matmul_fwd, _matmul_bwd)
