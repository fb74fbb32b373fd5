"""The vocabulary head: logits, and log-probabilities of ids.

Axes: D embed, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp

from model import cpu
from model.config import TransformerConfig
from model.kernels.base import MASKED
from model.sharding import constrain


def logits(config: TransformerConfig, table, hidden, decoding: bool = False):
    """[..., D] -> float32 [..., V] over the padded vocabulary; ids beyond it are `MASKED`.

    Args:
      table: the embedding [V, D] if `tie_embeddings`, else the unembedding [D, V].
      decoding: no gradient is taken, so a tied table is used without a transpose.
    """
    c = config
    table = table.astype(c.activation_dtype)
    if c.tie_embeddings:
        table = cpu.TransposedWeight(table) if decoding else table.T
    logits = cpu.matmul(hidden, table).astype(jnp.float32)
    if c.logit_softcap:
        logits = c.logit_softcap * jnp.tanh(logits / c.logit_softcap)
    if logits.ndim == 3:
        logits = constrain(logits, "act_batch", "act_length", "act_vocab")
    if c.padded_vocab_size == c.vocab_size:
        return logits
    return jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, logits, MASKED)
