"""Products with the weights of a layer, which may be quantized or have adapters.

Axes: B batch, T length, D inputs, F outputs (of several axes, flat).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from model import cpu, lora, quantized
from model.kernels import tpu
from model.layers import low_precision
from model.layers.low_precision import TrainedWeight
from model.sharding import platform


def read(params: Mapping, name: str, dtype: jnp.dtype) -> Any:
    """A weight in the activations' dtype; unchanged if it is quantized or stored transposed."""
    weight = params[name]
    unchanged = cpu.TransposedWeight, TrainedWeight
    if quantized.is_quantized(weight) or isinstance(weight, unchanged):
        return weight
    return weight.astype(dtype)


def adapter(params: Mapping, name: str, dtype: jnp.dtype) -> tuple:
    """(A, B) of the adapter of a weight in the activations' dtype; () if it has none."""
    if name + lora.A not in params:
        return ()
    return tuple(params[name + end].astype(dtype) for end in (lora.A, lora.B))


def project(params: Mapping, name: str, x: Array) -> Array:
    """x [B, T, *inputs] @ the weight `name` [*inputs, *outputs], plus its adapter: [B, T, F]."""
    w, given = read(params, name, x.dtype), x
    x = x.reshape(*x.shape[:2], -1)
    if tpu.projects(given, w):
        out = tpu.project(name, given, w)
    elif isinstance(w, TrainedWeight):
        out = _low_precision(name, given, w).reshape(*x.shape[:2], -1)
    else:
        if not isinstance(w, cpu.TransposedWeight):
            w = w.reshape(x.shape[-1], math.prod(w.shape) // x.shape[-1])
        out = quantized.matmul(x, w) if quantized.is_quantized(w) else cpu.matmul(x, w)
    if pair := adapter(params, name, x.dtype):
        a, b = pair
        rank = a.shape[-1]
        out = out + cpu.matmul(cpu.matmul(x, a.reshape(-1, rank)), b.reshape(rank, -1))
    return out


def _low_precision(name: str, x: Array, w: TrainedWeight) -> Array:
    """x [B, T, *inputs] @ w [*inputs, *outputs] -> [B, T, …]."""
    if platform() == "tpu":  # heads stay an axis, as in `tpu.project`
        to_stream = name in tpu.TO_STREAM
        w = jax.tree.map(lambda a: tpu.stream_first(name, a), w) if to_stream else w
        return low_precision.matmul(x, w, to_stream)
    matrix = jax.tree.map(lambda a: a.reshape(math.prod(a.shape[: x.ndim - 2]), -1), w)
    return low_precision.matmul(x.reshape(*x.shape[:2], -1), matrix, to_stream=False)
