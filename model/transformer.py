"""A decoder-only transformer: embedding, layers (model/layers/stack.py), vocabulary head.

Axes: B batch, T length, D embed, V vocabulary.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from model import context_parallel, vocabulary, weights
from model.config import TransformerConfig
from model.kernels import tpu
from model.layers.attention import Rows
from model.layers.kv_cache import KVCache, write_slots
from model.layers.norm import rms_norm
from model.layers.stack import init_layers, run_layers
from model.sharding import constrain
from model.taps import tap


class Transformer(nn.Module):
    """Tokens to hidden states (`hidden`) and to logits (`__call__`); one cached form of each.

    Parameters are stacked over layers whatever the execution settings are.
    """

    config: TransformerConfig

    def setup(self) -> None:
        c = self.config
        for weight in weights.rows(c, "model"):
            setattr(self, weight.name, weights.create(self, weight, c))
        self.layers = init_layers(c)

    def hidden(
        self, tokens: Array, positions: Array | None = None, segment_ids: Array | None = None,
        cache: KVCache | None = None, slot: Array | int | None = None,
        branch_ids: Array | None = None, last: int = 0,
    ) -> tuple[Array, KVCache | None]:  # fmt: skip
        """The normalised residual stream.

        Args:
          tokens: [B, T] int32.
          positions: [B, T] int32; 0..T-1 by default.
          segment_ids: [B, T] int32; 0 is padding; one segment by default.
          cache: a KVCache to extend, or None. slot: the column of the first token in the cache, or
            [B] a column a row; None: the cache is empty, and the tokens go to its first columns.
          branch_ids: [B, T] int32 where segments fork (model/kernels/plain.py), or None; not with a
            cache.
          last: the number of last positions that are wanted, static; 0: all. Where it can, the
            final layer computes no other.

        Returns:
          ([B, last or T, D] activation dtype, the extended cache or None).
        """
        c = self.config
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if cache is not None:
            start = 0 if slot is None else slot
            segments = write_slots(cache.segment_ids, segment_ids, start, axis=-1)
            cache = cache._replace(segment_ids=segments)
        split = cache is None and context_parallel.shards() > 1 and not self.is_initializing()
        if split:
            tokens, positions, segment_ids = map(
                context_parallel.split, (tokens, positions, segment_ids)
            )
        # The table is sharded over D, so that gathering rows needs no one-hot product.
        x = jnp.take(self.embedding.astype(c.activation_dtype), tokens, axis=0)
        if c.embedding_scale:
            x = x * jnp.asarray((c.embed_dim / c.width_ratio) ** 0.5, x.dtype)
        length = "act_length" if cache is None else "act_slot"
        x = tpu.row_major(constrain(x, "act_batch", length, "act_embed"))
        x = tap("embedding", x)
        if self.is_initializing():
            self.layers(None)  # creates their parameters; nothing need be computed
        else:
            params = nn.unbox(self.layers.variables["params"])
            rows = Rows(positions, segment_ids, slot, branch_ids, last)
            (x, cache, _), stats = run_layers(c, params, (x, cache, jnp.int32(0)), rows)
            if c.num_experts:  # for a caller with `mutable=["router"]`
                self.sow("router", "stats", stats, reduce_fn=lambda _, new: new)
        x = context_parallel.join(x) if split else x
        x = x[:, -last:] if last else x
        return tap("final_norm", rms_norm(x, self.final_norm, c)), cache

    def logits(self, hidden: Array, decoding: bool = False) -> Array:
        """[..., D] -> float32 [..., V] over the padded vocabulary; ids beyond it are `MASKED`.

        Args:
          decoding: no gradient is taken.
        """
        c = self.config
        table = self.embedding if c.tie_embeddings else self.unembedding
        return vocabulary.logits(c, table, hidden, decoding)

    def __call__(
        self, tokens: Array, positions: Array | None = None, segment_ids: Array | None = None
    ) -> Array:
        """Float32 logits [B, T, V] of the token after each."""
        return tap("logits", self.logits(self.hidden(tokens, positions, segment_ids)[0]))

    def step(
        self, tokens: Array, positions: Array, segment_ids: Array, cache: KVCache,
        slot: Array | int | None = None,
    ) -> tuple[Array, KVCache | None]:  # fmt: skip
        """Runs T tokens against a cache: (float32 logits [B, V] after the last one, new cache).

        `slot` as for `hidden`: None reads a prompt into an empty cache.
        """
        hidden, cache = self.hidden(tokens, positions, segment_ids, cache, slot, last=1)
        return self.logits(hidden[:, -1], decoding=True), cache
