"""A decoder-only transformer: embedding, layers (model/block.py), vocabulary head.

Axes: B batch, T length, D embed, V vocabulary.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from model import sequence
from model.attention import KVCache
from model.block import init_layers, kernel_init, norm_init, rms_norm, run_layers
from model.config import TransformerConfig
from model.linear import Turned, linear
from model.sharding import constrain


class Transformer(nn.Module):
    """Tokens to hidden states (`hidden`) and to logits (`__call__`); one cached form of each.

    Parameters are stacked over layers whatever the execution settings are.
    """

    config: TransformerConfig

    def setup(self):
        c = self.config
        table = (c.padded_vocab_size, c.embed_dim)
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, table, jnp.float32)
        self.layers = init_layers(c)
        self.final_norm = self.param("final_norm", norm_init(c), (c.embed_dim,), jnp.float32)
        if not c.tie_embeddings:
            init = nn.with_logical_partitioning(kernel_init(c.embed_dim), ("embed", "vocab"))
            self.unembedding = self.param("unembedding", init, table[::-1], jnp.float32)

    def hidden(
        self, tokens, positions=None, segment_ids=None, cache=None, slot=None, branch_ids=None
    ):
        """The normalised residual stream.

        Args:
          tokens: [B, T] int32.
          positions: [B, T] int32; 0..T-1 by default.
          segment_ids: [B, T] int32; 0 is padding; one segment by default.
          cache: a KVCache to extend, or None. slot: the column of the first token in the cache;
            None: the cache is empty, and the tokens go to its first columns.
          branch_ids: [B, T] int32 where segments fork (model/attention.py), or None; not cached.

        Returns:
          ([B, T, D] activation dtype, the extended cache or None).
        """
        c = self.config
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if cache is not None:
            start = (0, 0 if slot is None else slot)
            segments = jax.lax.dynamic_update_slice(cache.segment_ids, segment_ids, start)
            cache = cache._replace(segment_ids=segments)
        split = cache is None and sequence.shards() > 1 and not self.is_initializing()
        if split:
            tokens, positions, segment_ids = map(sequence.split, (tokens, positions, segment_ids))
        # The model's table is sharded over its width; gathering rows then needs no one-hot.
        x = jnp.take(self.embedding.astype(c.activation_dtype), tokens, axis=0)
        if c.embedding_scale:
            x = x * jnp.asarray(c.embed_dim**0.5, x.dtype)
        length = "act_length" if cache is None else "act_slot"
        x = constrain(x, "act_batch", length, "act_embed")
        carry, args = (x, cache, jnp.int32(0)), (positions, segment_ids, slot, branch_ids)
        if self.is_initializing():
            carry, _ = self.layers(carry, *args)
        else:
            params = nn.unbox(self.layers.variables["params"])
            carry, stats = run_layers(c, params, carry, *args)
            if c.num_experts:  # for a caller with `mutable=["router"]`
                self.sow("router", "stats", stats, reduce_fn=lambda _, new: new)
        x, cache, _ = carry
        x = sequence.join(x) if split else x
        return rms_norm(x, self.final_norm, c), cache

    def logits(self, hidden, decoding: bool = False):
        """[..., D] -> float32 [..., V] over the padded vocabulary; ids beyond it get -1e30.

        Args:
          decoding: without a gradient, for which a tied table serves as it lies.
        """
        c = self.config
        table = self.embedding if c.tie_embeddings else self.unembedding
        table = table.astype(c.activation_dtype)
        if c.tie_embeddings:
            table = Turned(table) if decoding else table.T
        logits = linear(hidden, table).astype(jnp.float32)
        if c.logit_softcap:
            logits = c.logit_softcap * jnp.tanh(logits / c.logit_softcap)
        if logits.ndim == 3:
            logits = constrain(logits, "act_batch", "act_length", "act_vocab")
        if c.padded_vocab_size == c.vocab_size:
            return logits
        return jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, logits, -1e30)

    def __call__(self, tokens, positions=None, segment_ids=None):
        """Float32 logits [B, T, V] of the token after each."""
        return self.logits(self.hidden(tokens, positions, segment_ids)[0])

    def step(self, tokens, positions, segment_ids, cache: KVCache, slot=None):
        """Runs T tokens against a cache: (float32 logits [B, V] after the last one, new cache).

        `slot` as for `hidden`: None reads a prompt into an empty cache.
        """
        hidden, cache = self.hidden(tokens, positions, segment_ids, cache, slot)
        return self.logits(hidden[:, -1], decoding=True), cache
