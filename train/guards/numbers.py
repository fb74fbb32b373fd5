"""The numbers of a step, checked inside the jitted step: whether its update may be applied."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

# The reasons why an update is not applied, in the order of the step; `fault` is an index into them.
CAUSES = (
    "",
    "loss not finite",
    "gradient not finite",
    "new weights not finite",
    "loss spike",
)
# The cause that is found when the weights that it ruins are replaced already.
RUINED = CAUSES.index("new weights not finite")
# Applied losses that a spike is measured by, and the least spread that they count as having: a
# share of their median, and a number.
WINDOW, LEAST_SHARE, LEAST = 64, 0.01, 1e-6
# A run fails at its end if more than this share of its updates was not applied.
MAX_SKIPPED_SHARE = 0.1


def all_finite(tree: Any) -> jax.Array:
    """Whether all floating-point values of a tree are finite: a bool scalar."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(x)) for x in leaves]
    return functools.reduce(jnp.logical_and, finite, jnp.bool_(True))


def fault(loss: jax.Array, norm: jax.Array, weights: Any, spike: jax.Array) -> jax.Array:
    """The index into `CAUSES` of the first number of a step that is not finite; 0 if there is none.

    Args:
      norm: of the gradient. weights: after the update. spike: whether the loss is one.
    """
    faults = [*(~jnp.isfinite(x) for x in (loss, norm)), ~all_finite(weights), spike]
    return jnp.where(functools.reduce(jnp.logical_or, faults), jnp.argmax(jnp.stack(faults)) + 1, 0)


def is_spike(losses: jax.Array, loss: jax.Array, threshold: float) -> jax.Array:
    """Whether a loss is above the median of `losses` by more than `threshold` times their median
    absolute deviation; false until `losses` holds no NaN.

    Args:
      losses: [WINDOW], those of the last updates that were applied.
    """
    median = jnp.median(losses)
    spread = jnp.median(jnp.abs(losses - median))
    spread = jnp.maximum(spread, LEAST_SHARE * jnp.abs(median) + LEAST)
    return loss > median + threshold * spread


def check_skipped(count: int, steps: int) -> None:
    """Refuses the result of a run in which `count` of `steps` updates were not applied.

    Raises:
      FloatingPointError: these are more than `MAX_SKIPPED_SHARE`.
    """
    if count > MAX_SKIPPED_SHARE * steps:
        raise FloatingPointError(
            f"{count} of {steps} updates were not applied, too many to continue from: their "
            "numbers were not finite, or their loss was a spike. metrics.jsonl names the steps and "
            "their rows; lower the learning rate, or correct the data, and use a new --workdir"
        )
