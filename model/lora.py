"""Low-rank adapters: a frozen weight W acts as W + (α/r)·A·B, and only A and B are trained (Hu et
al. 2021, arXiv:2106.09685).

An adapter is stored next to the weight it adapts, as `<name>_lora_a` and `<name>_lora_b`; a layer
applies those among its parameters. B starts at zero, so an adapted model starts as its base.

Axes: L layers, E experts, r rank; a weight is [L, (E,) *inputs, *outputs].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ranges
from model import weights
from ranges import Positive, Range

A, B = "_lora_a", "_lora_b"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Settings of the adapters of a run.

    Attributes:
      rank: r; 0 has no adapters. alpha: α; A·B is multiplied by α/r.
      targets: patterns of the weights to adapt (train/assembly/partition.py).
    """

    rank: Annotated[int, Range(0, 2**16)] = 0
    alpha: Positive = 16.0
    targets: str = "query,value"

    def __post_init__(self):
        ranges.check(self, "lora.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.rank else 0.0


def abstract(
    name: str, weight: jax.ShapeDtypeStruct, rank: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes and shardings of an adapter: (A [L, (E,) *inputs, r], B [L, (E,) r, *outputs]).

    Args:
      name: of an adaptable weight (model/weights.py). weight: its ShapeDtypeStruct, with a
        NamedSharding.
    """
    row = weights.adaptable(name)
    stacked, middle = row.stacked, row.stacked + row.inputs
    shape, mesh = weight.shape, weight.sharding.mesh
    spec = (*weight.sharding.spec, *[None] * weight.ndim)[: weight.ndim]

    def make(shape, spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    return (
        make((*shape[:middle], rank), (*spec[:middle], None)),
        make((*shape[:stacked], rank, *shape[middle:]), (*spec[:stacked], None, *spec[middle:])),
    )


def init(key: Array, adapters: Mapping[str, Any]) -> dict[str, Any]:
    """Fresh adapters, A normal with variance 1/inputs and B zero.

    Args:
      adapters: tree of the shapes of `abstract`.
    """
    flat = flatten_dict(adapters)
    for number, path in enumerate(sorted(flat)):
        like = flat[path]
        if path[-1].endswith(B):
            flat[path] = jnp.zeros(like.shape, like.dtype)
        else:
            row = weights.adaptable(path[-1].removesuffix(A))
            fan_in = math.prod(like.shape[row.stacked : row.stacked + row.inputs])
            draw = jax.random.normal(jax.random.fold_in(key, number), like.shape, like.dtype)
            flat[path] = draw * fan_in**-0.5
    return unflatten_dict(flat)


def scaled(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Parameters with every B multiplied by α/r, as layers expect them."""
    flat = flatten_dict(params)
    return unflatten_dict({k: v * scale if k[-1].endswith(B) else v for k, v in flat.items()})


def merge(params: Mapping[str, Any], adapters: Mapping[str, Any], settings: LoRA) -> dict[str, Any]:
    """Parameters without adapters, equivalent to the base with its adapters.

    Args:
      params: of a model, without adapters. adapters: tree of A and B, each at the place of its
        weight.

    Returns:
      W + (α/r)·A·B for adapted weights, added in float32, in the dtype of W; the others unchanged.
    """
    merged, flat = flatten_dict(params), flatten_dict(adapters)
    for path in flat:
        if not path[-1].endswith(A):
            continue
        name = path[-1].removesuffix(A)
        weight_path = *path[:-1], name
        a, b, w = flat[path], flat[*path[:-1], name + B], merged[weight_path]
        lead, rank = w.shape[: weights.adaptable(name).stacked], a.shape[-1]
        product = jnp.matmul(
            a.astype(jnp.float32).reshape(*lead, -1, rank),
            b.astype(jnp.float32).reshape(*lead, rank, -1),
            precision=jax.lax.Precision.HIGHEST,
        ).reshape(w.shape)
        merged[weight_path] = (w.astype(jnp.float32) + settings.scale * product).astype(w.dtype)
    return unflatten_dict(merged)
