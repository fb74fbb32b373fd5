"""Non-finite weights are refused where they enter: at an import, a load, a resume, an export."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ranges import ConfigError


@functools.partial(jax.jit, static_argnums=1)
def finite(x, depth: int = 0):
    """Whether all is finite of each part of `x` that its first `depth` axes count; [] or more."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(depth, x.ndim)))


def check(tree, where: str, what: str) -> None:
    """Refuses a tree with a NaN or an infinity, by one reduction an array, on its devices.

    Raises:
      ConfigError: naming the first such array.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    named = [(p, x) for p, x in named if jnp.issubdtype(x.dtype, jnp.inexact)]
    # A program a shape, which trees share; all are begun before the first is waited for.
    for (path, _), good in zip(named, [finite(x) for _, x in named], strict=True):
        if not np.asarray(good):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConfigError(
                f"{where} holds NaN or infinity in its {what} {name}; whatever starts from it "
                "would compute NaN. Take an earlier checkpoint of that run, or another model"
            )
