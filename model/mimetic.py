"""An initialisation for small models on little text, in the form that trained models reach.

From random weights a transformer first has to learn that attention can look for the same word
again, and which tokens are the same word. With billions of tokens that is learned early; with one
million it is most of what is learned at all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Correlation of the embeddings of one word's variants (" Tree", "tree").
CORRELATION = 0.9


def mimetic(params, word_of, key):
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

    word_of = jnp.arange(len(embedding)).at[: len(word_of)].set(word_of)  # and the padding's rows
    own = jax.random.normal(key, embedding.shape) * jnp.std(embedding)
    mixed = CORRELATION**0.5 * embedding[word_of] + (1 - CORRELATION) ** 0.5 * own
    return params | {"layers": layers | {"query": query}, "embedding": mixed}
