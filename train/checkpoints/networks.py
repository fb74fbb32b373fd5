"""The networks of the roles, and the shapes and shardings of their parameters."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from model.config import TransformerConfig
from model.heads import ValueHead, reward_model, value_model
from model.sharding import parameter_shardings
from model.transformer import Transformer
from ranges import ConfigError

# {role: its network}
NETWORKS: dict[str, Callable] = {
    "policy": Transformer,
    "reference": Transformer,
    "value": value_model,
    "value_head": ValueHead,
    "reward": reward_model,
    "judge": reward_model,
}


def init_params(role: str, config: TransformerConfig, key: jax.Array) -> Any:
    """Fresh parameters of a role's network, boxed with their logical axes."""
    tokens, hidden = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, config.embed_dim))
    inputs = hidden if role == "value_head" else tokens
    return NETWORKS[role](config).init(key, inputs)["params"]


def abstract_params(role: str, config: TransformerConfig, mesh: jax.sharding.Mesh) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with the shardings of a role's parameters."""
    return jax.tree.map(lambda x: x, _abstract_params(role, config, mesh))  # the caller's own


# A run asks for the same shapes several times, as do the runs of a sweep; tracing takes long.
@functools.lru_cache(maxsize=32)
def _abstract_params(role: str, config: TransformerConfig, mesh: jax.sharding.Mesh) -> Any:
    boxed = jax.eval_shape(lambda key: init_params(role, config, key), jax.random.key(0))
    return with_shardings(nn.unbox(boxed), parameter_shardings(boxed, mesh))


def check_memory(abstract: Any, label: str) -> None:
    """Refuses arrays that this machine cannot hold, before any of them is allocated: a damaged or
    hostile file may give a model any size.

    Args:
      abstract: a tree of shapes with shardings. label: of the arrays, in the error.

    Raises:
      ConfigError: its shards are larger than the memory of their device.
    """
    device, *others = jax.local_devices()
    needed = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
        if not isinstance(x, np.ndarray)
    )
    if device.platform == "cpu":  # its devices share the machine's memory
        needed *= 1 + len(others)
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        available = (device.memory_stats() or {}).get("bytes_limit", 0)
    if available and needed > available:
        raise ConfigError(
            f"{label}: {needed / 2**30:,.1f} GiB of arrays on a device, which has "
            f"{available / 2**30:,.1f} GiB; take a smaller model, or more devices (mesh.fsdp)"
        )


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with a tree of shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def to_abstract(tree: Any) -> Any:
    """Device arrays -> `jax.ShapeDtypeStruct` with shardings; host arrays stay as they are."""
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, np.ndarray)
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        ),
        tree,
    )
