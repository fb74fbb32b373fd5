"""The gated MLP (Shazeer 2020, arXiv:2002.05202). Axes: B batch, T length, D embed, F mlp."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from model import cpu
from model.config import TransformerConfig
from model.kernels import tpu
from model.layers.projection import adapter, project
from model.sharding import constrain, platform
from model.taps import tap

Activation: TypeAlias = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def mlp(config: TransformerConfig, params: Mapping, x: Array, length_axis: str) -> Array:
    """down(activation(gate(x)) · up(x)), [B, T, D] -> [B, T, D].

    Args:
      length_axis: the logical name of T (model/sharding.py).
    """
    gate = checkpoint_name(project(params, "gate", x), "gate")  # [B, T, F]
    up = checkpoint_name(project(params, "up", x), "up")
    gate, up = tap("mlp.gate", gate), tap("mlp.up", up)
    # With an adapter the result is not transposed: XLA on CPU has no bfloat16 product for its
    # matrices.
    next_weight = None if adapter(params, "down", x.dtype) else params["down"]
    activation = ACTIVATIONS[config.activation]
    if platform() == "tpu":
        hidden = tpu.gated(activation, gate, up)
    else:
        hidden = cpu.gated(activation, gate, up, next_weight)
    hidden = tap("mlp.hidden", constrain(hidden, "act_batch", length_axis, "act_mlp"))
    return project(params, "down", hidden)
