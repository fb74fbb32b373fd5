"""Products of the layers in 8 bits: forwards, and both gradients (`model.matmul`).

Every factor is divided by a scale, rounded and multiplied as int8 or float8; the product is summed
in int32 or float32 and multiplied by the scales. qwix quantizes and multiplies. The backward pass
is that of its `QtProvider` with `bwd_qtype`: the factors of the forward pass are used again, their
scales multiplied into the incoming gradient, which is rounded to nearest. By channel, a row of
activations, an output of a weight, and a row or a column of a gradient has a scale; by tensor, each
of these has one. Scales of activations and gradients are of a device's own rows. An int32 holds the
sum of 133,000 products of the largest numbers: a device's tokens, and the inputs of a weight.

Weights stay as they are: the gradient of a rounded weight is that of the weight itself (the
straight-through estimator, Bengio et al. 2013, arXiv:1308.3432).

Axes: B batch, T length, D inputs, F outputs; S shards of the batch and U of the length, so that
B = S·b and T = U·t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from model import quantized, weights
from model.kernels import tpu
from model.sharding import batch_shards, platform


class Format(NamedTuple):
    """The numbers of a value of `model.matmul`.

    Attributes:
      forward: dtype of activations and weights. gradient: of gradients.
      by_tensor: a tensor has one scale, in place of one a channel.
    """

    forward: Any
    gradient: Any
    by_tensor: bool = False


# float8: Micikevicius et al. 2022, arXiv:2209.05433.
FORMATS = {
    "int8": Format(jnp.int8, jnp.int8),
    "int8_tensor": Format(jnp.int8, jnp.int8, by_tensor=True),
    "fp8": Format(jnp.float8_e4m3fn, jnp.float8_e5m2),
    "fp8_tensor": Format(jnp.float8_e4m3fn, jnp.float8_e5m2, by_tensor=True),
}


@flax.struct.dataclass
class TrainedWeight:
    """A weight [*inputs, *outputs] with its quantized form.

    Attributes:
      weight: the array that the gradient is of; its values are not read.
      quantized: a `qwix.QArray`. matmul: a key of `FORMATS`.
    """

    weight: Array
    quantized: Any
    matmul: str = flax.struct.field(pytree_node=False)


def quantize_weights(params: Mapping[str, Any], matmul: str) -> dict[str, Any]:
    """Parameters of the layers with a `TrainedWeight` for each matrix.

    Called before the scan over layers, so that devices exchange the maxima of sharded weights once
    a step, and 8 bits a weight in each layer.

    Args:
      params: {name: [L, …]}. matmul: a key of `FORMATS`.
    """
    form = FORMATS[matmul]

    def quantize(name, weight):
        values = jax.lax.stop_gradient(weight).astype(jnp.float32)
        array = quantized.quantize(name, values, form.forward, form.by_tensor)
        return TrainedWeight(weight, array, matmul)

    return {n: quantize(n, w) if weights.is_adaptable(n) else w for n, w in params.items()}


def _split(x: Array) -> Array:
    """[B, T, …] -> [S, b, U, t, …]: what a device holds is along b and t."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = (1, 1) if mesh.empty else (batch_shards(mesh), mesh.shape["sequence"])
    (B, T), (S, U) = x.shape[:2], shards
    S, U = S if B % S == 0 else 1, U if T % U == 0 else 1
    return x.reshape(S, B // S, U, T // U, *x.shape[2:])


def _join(x: Array) -> Array:
    """[S, b, U, t, …] -> [B, T, …]."""
    S, b, U, t, *rest = x.shape
    return x.reshape(S * b, U * t, *rest)


def _quantize(x: Array, dtype: Any, axes: tuple[int, ...]) -> Any:
    """A QArray with a float32 scale for each index of `axes`."""
    import qwix

    return qwix.quantize(x.astype(jnp.float32), dtype, channelwise_axes=axes)


def _dot(x: Any, y: Any, x_axes: Sequence[int], y_axes: Sequence[int], batch: tuple = ((), ())):
    """The float32 product of QArrays, or of their values without scales.

    XLA on CPU multiplies 8 bits slowly: there the same numbers are multiplied as float32.

    Args:
      x_axes, y_axes: are summed over. batch: batch axes, as of `jax.lax.dot_general`.
    """
    import qwix

    if platform() == "cpu":
        x, y = (quantized.dequantize(a, jnp.float32) for a in (x, y))
    axes = (tuple(x_axes), tuple(y_axes)), batch
    return qwix.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _tokens_last(x: Any) -> Any:
    """A QArray, or values, [S, b, U, t, D] as [S, U, b, D, t]: XLA on TPU multiplies 8 bits fast
    where the factor that is read first is summed along its last axes."""
    return jax.tree.map(lambda a: tpu.row_major(tpu.row_major(a).transpose(0, 2, 1, 4, 3)), x)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: Array, w: TrainedWeight, to_stream: bool) -> Array:
    """The product of x [B, T, …] and a weight [D, …] over D, or over all axes of w but D.

    Args:
      to_stream: x is [B, T, *rest], and the result [B, T, D]; else the other way round.

    Returns:
      [B, T, …] in the dtype of x.
    """
    return _matmul_fwd(x, w, to_stream)[0]


def _matmul_fwd(x, w, to_stream):
    form = FORMATS[w.matmul]
    q = _quantize(_split(x), form.forward, (0, 2) if form.by_tensor else (0, 1, 2, 3))
    rest = range(1, w.quantized.ndim) if to_stream else (0,)
    out = _dot(q, w.quantized, range(4, q.ndim), rest)
    saved = q, w.replace(weight=jnp.zeros((), w.weight.dtype))  # the weight's dtype alone
    return _join(out).astype(x.dtype), saved


def _matmul_bwd(to_stream, saved, g):
    x, w = saved
    form, matrix = FORMATS[w.matmul], w.quantized
    rows = _split(g)
    of_rows, of_matrix = range(4, rows.ndim), (0,) if to_stream else range(1, matrix.ndim)
    if form.by_tensor:
        for_x = for_w = _quantize(rows, form.gradient, (0, 2))
    else:
        rows, of_x, x = rows.astype(jnp.float32), x.scale[..., 0], x.qvalue
        scaled = rows * matrix.scale.reshape(rows.shape[4:])
        for_x = _quantize(scaled, form.gradient, (0, 1, 2, 3))
        scaled = rows * of_x.reshape(*of_x.shape[:4], *[1] * len(of_rows))
        for_w = _quantize(scaled, form.gradient, (0, 2, *of_rows))
        matrix = matrix.qvalue
    dx = _dot(for_x, matrix, of_rows, of_matrix)
    stream, others = (for_w, x) if to_stream else (x, for_w)
    dw = _dot(_tokens_last(stream), others, (2, 4), (1, 3), batch=((0, 1), (0, 2)))
    # Devices add their sums in the activations' dtype, as those of other products: `jnp.sum` would
    # add bfloat16 in float32.
    dw = dw.astype(g.dtype)  # [S, U, D, …]
    dw = jax.lax.reduce(dw, np.zeros((), dw.dtype), jax.lax.add, (0, 1))
    dw = TrainedWeight(
        dw.astype(w.weight.dtype), jax.tree.map(quantized.no_gradient, w.quantized), w.matmul
    )
    return _join(dx).astype(g.dtype), dw


matmul.defvjp(_matmul_fwd, _matmul_bwd)
