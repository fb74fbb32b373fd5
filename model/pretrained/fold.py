"""μP's multipliers folded into weights: the same function in the standard parametrization.

Hugging Face's models, and so exports, know no multipliers of μP (`parametrization` in
model/config.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from model import weights
from model.config import TransformerConfig


def to_standard(
    config: TransformerConfig, scalar: bool = False
) -> tuple[TransformerConfig, Callable[[str, Array], Array]]:
    """(config, the function (last name, parameter) -> parameter) of the standard model that
    computes what a μP model of `config` does, up to rounding.

    Args:
      scalar: it has a scalar head (model/heads.py) and no logits.
    """
    c = config
    if c.parametrization == "standard":
        return c, lambda name, x: x
    factors = {}
    if c.embedding_scale:  # a standard model multiplies its embeddings by √D, and not by √base
        factors["embedding"] = c.width_ratio**-0.5
    attention = c.attention_scale * c.head_dim**0.5
    queries = ("query_norm",) if c.qk_norm else ("query", "query_bias")
    factors |= dict.fromkeys(queries, attention)
    if not scalar and c.tie_embeddings:  # the last norm scales logits alone
        factors["final_norm"] = 1 / (c.width_ratio * factors.get("embedding", 1.0))
    elif not scalar:
        factors["unembedding"] = 1 / c.width_ratio

    def fold(name: str, x: Array) -> Array:
        if (factor := factors.get(name, 1.0)) == 1:
            return x
        row = weights.row(name)
        offset = float(c.norm_offset and row is not None and row.init == "norm")
        return ((x.astype(jnp.float32) + offset) * factor - offset).astype(x.dtype)

    base = TransformerConfig.base_width
    return dataclasses.replace(c, parametrization="standard", base_width=base), fold
