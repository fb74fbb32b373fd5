"""Refusal of non-finite weights where they enter: at an import, a load, a resume, an export."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ranges import ConfigError


@functools.partial(jax.jit, static_argnums=1)
def finite(x: jax.Array, depth: int = 0) -> jax.Array:
    """Whether all values are finite, one bool for each index of the first `depth` axes of `x`."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(depth, x.ndim)))


def require_finite(tree: Any, label: str, what: str) -> None:
    """Refuses a tree with a NaN or an infinity, by one reduction per array, on its devices.

    Args:
      label, what: the file or workdir, and the kind of values in the tree, for the error.

    Raises:
      ConfigError: naming the first array that is not finite.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    named = [(p, x) for p, x in named if jnp.issubdtype(x.dtype, jnp.inexact)]
    # One program per shape, which trees share; all are dispatched before the first is awaited.
    for (path, _), good in zip(named, [finite(x) for _, x in named], strict=True):
        if not np.asarray(good):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConfigError(
                f"{label} holds NaN or infinity in its {what} {name}; whatever starts from it "
                "would compute NaN. Take an earlier checkpoint of that run, or another model"
            )
