"""Statistics of an update, by group of weights: norms of gradients, root mean squares of weights.

The jitted step computes them (`of_update`) by reductions over arrays that it has anyway, and the
host reads them (`numbers`):

| metric | meaning |
|---|---|
| `grad_norm/GROUP` | norm of the gradient, before clipping |
| `weight_rms/GROUP` | root mean square of the weights after the update |
| `update_rms/GROUP` | root mean square of what the optimizer adds to them |
| `update_ratio/GROUP` | `update_rms` / `weight_rms` |
| `noise_scale`, `noise_signal`, `noise_trace` | with `noise`: train/measures/noise.py |

GROUP is `embedding`, `hidden`, `output` or `vector` (model/weights.py), `other` for a plugin's
weights; with `layers` also `layer_0`, `layer_1`, …: all weights of a layer. The names for a model
that is trained beside a policy begin with its role, as `value_grad_norm/hidden`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import weights
from model.sharding import platform
from ranges import ConfigError
from train.measures import noise

# `noise` is no default: reading the gradients of single microbatches changes how XLA fuses, and so
# rounds, their sum.
CHOICES = ("groups", "layers", "noise")
DEFAULT = ("groups",)


def check(names: Collection[str]) -> None:
    """Refuses a value of `config.statistics`.

    Raises:
      ConfigError: a name is not one of `CHOICES`.
    """
    for name in names:
        if name not in CHOICES:
            raise ConfigError(f"statistics={name!r:.80}; choose {', '.join(CHOICES)}")


def _prefix(role: str, roles: Mapping[str, Any]) -> str:
    return "" if role == "policy" or len(roles) == 1 else f"{role}_"


def _group(path: tuple[Any, ...]) -> str:
    return weights.group(path[-1].key) or "other"


def _is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the first axis of a weight is that of the layers."""
    return any(key.key == "layers" for key in path)


def squares(tree: Mapping[str, Any], layers: bool = False) -> dict[tuple[str, str], jax.Array]:
    """{(prefix, group): sum of squares, float32} of a tree {role: weights}.

    Args:
      layers: whether to add the group `layer`, [L], of all weights of each layer.
    """
    totals: dict[tuple[str, str], Any] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        square = jnp.square(x.astype(jnp.float32))
        parts = {_group(path): jnp.sum(square)}
        if layers and _is_stacked(path):
            parts["layer"] = jnp.sum(square, axis=tuple(range(1, x.ndim)))
        for group, total in parts.items():
            key = _prefix(path[0].key, tree), group
            totals[key] = totals.get(key, 0.0) + total
    return totals


def _sizes(tree: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """{(prefix, group): number of values}; of `layer`, in each layer. One that is no int32, as JAX
    reads whole numbers, is a float."""
    sizes: dict[tuple[str, str], int] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        parts = {_group(path): x.size}
        if _is_stacked(path):
            parts["layer"] = x.size // x.shape[0]
        for group, size in parts.items():
            key = _prefix(path[0].key, tree), group
            sizes[key] = sizes.get(key, 0) + size
    return {key: size if size < 2**31 else float(size) for key, size in sizes.items()}


def by_model(totals: Mapping[tuple[str, str], jax.Array]) -> dict[str, jax.Array]:
    """{prefix: sum over the groups} of `squares`."""
    sums: dict[str, Any] = {}
    for (prefix, group), total in totals.items():
        if group != "layer":
            sums[prefix] = sums.get(prefix, 0.0) + total
    return sums


def of_update(
    grads: Mapping[str, Any], updates: Mapping[str, Any], params: Mapping[str, Any], layers: bool
) -> dict[str, jax.Array]:
    """{metric: scalar, or [L] for the layers} of the update of trained models {role: weights}.

    Args:
      grads: before clipping. updates: as the optimizer returns them. params: after the update.
    """
    metrics, sizes = dict[str, jax.Array](), _sizes(params)
    for (prefix, group), total in squares(grads, layers).items():
        metrics[f"{prefix}grad_norm/{group}"] = jnp.sqrt(total)
    for name, tree in (("weight_rms", params), ("update_rms", updates)):
        for (prefix, group), total in squares(tree, layers).items():
            metrics[f"{prefix}{name}/{group}"] = jnp.sqrt(total / sizes[prefix, group])
    return metrics


def fetch(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Small arrays on the host; waits for the devices. On CPU they are there already, and asking
    for a copy of each, as `jax.device_get` does, takes longer than reading it."""
    if platform() == "cpu":
        return {name: np.asarray(x) for name, x in values.items()}
    return jax.device_get(dict(values))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a step as floats, with the ratios of updates to weights. Waits for the
    devices."""
    out = dict[str, float]()
    for name, value in fetch(values).items():
        if np.ndim(value):
            width = len(str(len(value) - 1))
            out |= {f"{name}_{i:0{width}}": float(x) for i, x in enumerate(value)}
        else:
            out[name] = float(value)
    for name in [name for name in out if "update_rms/" in name]:
        weight = out[name.replace("update_rms/", "weight_rms/")]
        if weight and math.isfinite(weight):
            out[name.replace("update_rms/", "update_ratio/")] = out[name] / weight
    return out


def of_microbatches(
    micro: Mapping[str, jax.Array], grads: Mapping[str, Any], rows: int
) -> dict[str, jax.Array]:
    """The metrics `noise_signal` and `noise_trace` of each trained model.

    Args:
      micro: {prefix: [n] squared norms of the microbatches' summands of the gradient}. grads: their
        sum. rows: of the whole batch.
    """
    metrics = {}
    for prefix, whole in by_model(squares(grads)).items():
        signal, trace = noise.estimates(micro[prefix], whole, rows)
        metrics |= {f"{prefix}noise_signal": signal, f"{prefix}noise_trace": trace}
    return metrics
