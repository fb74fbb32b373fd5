"""The chunks in which a checkpoint stores large arrays: layer by layer, so that one layer of a
stack can be read without the others."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.checkpoints import networks, saved_models

# Arrays up to this many bytes are stored whole: a chunk costs a request of its own.
SMALL = 4 << 20
# The largest chunk: what a read holds beside its result.
MOST = 8 << 20


def save_args(item: str, tree: Any) -> Any:
    """A tree of `ocp.SaveArgs` for an item of a checkpoint.

    Parameters under `layers` get chunks of one layer; those of the optimizer and the source, of
    which no part is read, stay as they are. Chunks never span the shards of an array.
    """
    if item.removesuffix(saved_models.AVERAGES) not in networks.NETWORKS:
        return None

    def of(path, x):
        if np.size(x) * np.dtype(x.dtype).itemsize <= SMALL:
            return ocp.SaveArgs()
        stacked = any(getattr(key, "key", "") == "layers" for key in path)
        return ocp.SaveArgs(chunk_byte_size=MOST, shard_axes=(0,) if stacked else ())

    return jax.tree_util.tree_map_with_path(of, tree)
