"""The chunks in which a checkpoint stores large arrays: layer by layer, so that one layer of a
stack can be read without the others."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# Arrays up to this many bytes are stored whole: a chunk costs a request of its own.
SMALL = 4 << 20
# The largest chunk: what a read holds beside its result.
MOST = 32 << 20


def save_args(params: Any) -> Any:
    """A tree of `ocp.SaveArgs` for the parameters of a model.

    Arrays under `layers` get chunks of one layer. Chunks never span the shards of an array.
    """

    def of(path, x):
        if np.size(x) * np.dtype(x.dtype).itemsize <= SMALL:
            return ocp.SaveArgs()
        stacked = any(getattr(key, "key", "") == "layers" for key in path)
        return ocp.SaveArgs(chunk_byte_size=MOST, shard_axes=(0,) if stacked else ())

    return jax.tree_util.tree_map_with_path(of, params)
