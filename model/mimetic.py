"""An initialisation for small models on little text that imitates trained attention.

From random weights a transformer first has to learn to attend to earlier occurrences of a word, and
which tokens are variants of one word. With billions of tokens it learns that early; with one
million, that is most of what it learns.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Correlation of the embeddings of one word's variants (" Tree", "tree").
CORRELATION = 0.9


def mimetic(params: dict[str, Any], word_of: Array | np.ndarray, key: Array) -> dict[str, Any]:
    """Parameters of a fresh Transformer, changed so that attention starts as a look-up by content.

    The first query head of every group starts equal to its key head, so that a token attends to
    similar ones (after Trockman & Kolter 2023, "Mimetic Initialization of Self-Attention Layers",
    arXiv:2305.09828), and the embeddings of the variants of a word start `CORRELATION` correlated.

    Args:
      params: of a Transformer or a ScalarModel, as it initialises them.
      word_of: [V] int32, the lowest id of the same word for each id (data/text/base.py).
      key: PRNG key of the variants' own parts.

    Returns:
      The parameters; shapes, dtypes and variances are as before.
    """
    if "backbone" in params:
        return params | {"backbone": mimetic(params["backbone"], word_of, key)}
    layers, embedding = params["layers"], params["embedding"]
    group = layers["query"].shape[-2] // layers["key"].shape[-2]
    query = layers["query"].at[..., ::group, :].set(layers["key"])

    # Rows of the padded vocabulary are words of their own.
    word_of = jnp.arange(len(embedding)).at[: len(word_of)].set(word_of)
    own = jax.random.normal(key, embedding.shape) * jnp.std(embedding)
    mixed = CORRELATION**0.5 * embedding[word_of] + (1 - CORRELATION) ** 0.5 * own
    return params | {"layers": layers | {"query": query}, "embedding": mixed}
