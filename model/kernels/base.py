"""Settings, masks and constants of all attention backends."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

# Far below any logit, and finite: a row with no visible key (padding) softmaxes to a mean, not NaN.
MASKED = -1e30
# The checkpoint name of what the backward pass of a kernel reads beside its arguments.
RESIDUALS = "attention_residuals"
# The checkpoint names of its queries, keys and values, those of the products in model/weights.py.
INPUTS = ("query", "key", "value")
# The TPU's registers hold 128 lanes; Pallas blocks are multiples of it.
LANES = 128

# Products of queries, keys, values and weights are summed in float32, whatever their dtype.
einsum32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Settings(NamedTuple):
    """Static settings of an attention.

    Attributes:
      window: keys a query sees at most, its own included; 0 is all.
      softcap: logits x become softcap·tanh(x / softcap); 0 leaves them.
      scale: factor of the queries; 0 is 1/√N.
      block: queries and keys of a block. compute_block: keys that splash computes at once.
      interpret: run the TPU kernel in Pallas' interpreter, for tests.
    """

    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    block: int = 1024
    compute_block: int = 512
    interpret: bool = False


def sees(queries: Array, keys: Array, window: int) -> Array:
    """Whether queries see keys, both by index: a key is at or before its query, and less than
    `window` before it; a window of 0 is unlimited."""
    mask = queries >= keys
    if window:
        mask &= queries - keys < window
    return mask


def visible(queries: Array, keys: Array, window: int) -> Array:
    """[T, S] bool: `sees` of queries [T] and keys [S]."""
    return sees(queries[:, None], keys[None, :], window)
