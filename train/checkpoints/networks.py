"""The networks of the roles, and the shapes and shardings of their parameters."""

from __future__ import annotations

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
    boxed = jax.eval_shape(lambda key: init_params(role, config, key), jax.random.key(0))
    return with_shardings(nn.unbox(boxed), parameter_shardings(boxed, mesh))


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
