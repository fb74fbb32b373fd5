"""The placement of an optimizer's state on the mesh."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train.optimizer import FEW


def opt_state_shardings(
    abstract_state: Any, params: Any, param_shardings: Any, replicated: NamedSharding
) -> Any:
    """Shardings of an optimizer state: a leaf has the sharding of the parameter it belongs to.

    The path of a moment ends in its parameter's path, and the longest such suffix decides. A
    factored moment lacks one axis, and is sharded over the others as the parameter is; counters and
    coefficients (a few numbers) are replicated.
    """
    by_path = {
        tuple(map(str, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_flatten_with_path(params)[0],
            jax.tree.leaves(param_shardings),
            strict=True,
        )
    }

    def place(path, leaf):
        keys = tuple(map(str, path))
        for start in range(len(keys)):
            if keys[start:] not in by_path:
                continue
            shape, sharding = by_path[keys[start:]]
            if shape == leaf.shape:
                return sharding
            for axis in range(len(shape)):
                if shape[:axis] + shape[axis + 1 :] == leaf.shape:
                    spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
                    return NamedSharding(sharding.mesh, P(*spec[:axis], *spec[axis + 1 :]))
        if leaf.size > FEW:
            raise ValueError(f"optimizer state {jax.tree_util.keystr(path)} matches no parameter")
        return replicated

    return jax.tree_util.tree_map_with_path(place, abstract_state)
