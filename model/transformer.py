"""A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Axes: B batch, T length, D embed, H query heads, K key/value heads, N head size, F mlp,
V vocabulary.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from model import sequence
from model.attention import KVCache, attention, cached_attention, causal_attention
from model.config import TransformerConfig
from model.sharding import constrain


@jax.custom_vjp
def linear(x, w):
    """x [..., D] @ w [D, F] -> [..., F].

    The gradient is written out because XLA on CPU otherwise computes the weight's through large
    transposed copies; the mathematics is the ordinary product's.
    """
    return jnp.matmul(x, w)


def _linear_fwd(x, w):
    return linear(x, w), (x, w)


def _linear_bwd(saved, g):
    x, w = saved
    x2d, g2d = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return jnp.matmul(g, w.T), jnp.matmul(x2d.T, g2d)


linear.defvjp(_linear_fwd, _linear_bwd)


def kernel_init(fan_in: int):
    return nn.initializers.truncated_normal(stddev=fan_in**-0.5)


def rms_norm(x, scale, eps: float):
    """x / rms(x) * scale, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * inverse * scale).astype(x.dtype)


def rope(x, positions, base: float):
    """Rotates pairs (i, i + N/2) of x [B, T, heads, N] by position (arXiv:2104.09864)."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None].astype(jnp.float32) * frequency  # [B, T, N/2]
    cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


class Block(nn.Module):
    """One layer. The carry of the scan over layers: (x, the cache or None, the layer's index)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, carry, positions, segment_ids, slot):
        x, cache, layer = carry
        length = "act_length" if cache is None else "act_slot"  # a cached step is not split
        hidden = ("act_batch", length, "act_embed")
        c, dtype = self.config, self.config.activation_dtype
        D, H, K, N, F = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim
        B, T, _ = x.shape

        def weight(name, shape, axes, fan_in):
            init = nn.with_logical_partitioning(kernel_init(fan_in), axes)
            return self.param(name, init, shape, jnp.float32).astype(dtype)

        def norm(name):
            init = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
            return self.param(name, init, (D,), jnp.float32)

        wq = weight("query", (D, H, N), ("embed", "heads", "head_dim"), D)
        wk = weight("key", (D, K, N), ("embed", "kv_heads", "head_dim"), D)
        wv = weight("value", (D, K, N), ("embed", "kv_heads", "head_dim"), D)
        wo = weight("out", (H, N, D), ("heads", "head_dim", "embed"), H * N)
        w_gate = weight("gate", (D, F), ("embed", "mlp"), D)
        w_up = weight("up", (D, F), ("embed", "mlp"), D)
        w_down = weight("down", (F, D), ("mlp", "embed"), F)

        h = rms_norm(x, norm("attention_norm"), c.norm_eps)
        q = linear(h, wq.reshape(D, H * N)).reshape(B, T, H, N)
        k = linear(h, wk.reshape(D, K * N)).reshape(B, T, K, N)
        v = linear(h, wv.reshape(D, K * N)).reshape(B, T, K, N)
        q = constrain(q, "act_batch", length, "act_heads", "act_head_dim")
        k = constrain(k, "act_batch", length, "act_kv_heads", "act_head_dim")
        v = constrain(v, "act_batch", length, "act_kv_heads", "act_head_dim")
        q, k = rope(q, positions, c.rope_base), rope(k, positions, c.rope_base)
        if self.is_initializing():  # a row of a few tokens, which a mesh need not divide
            out = causal_attention(q, k, v, segment_ids)
        elif cache is None:
            out = attention(q, k, v, segment_ids, c)
        else:
            out, cache = cached_attention(q, k, v, cache, layer, slot, segment_ids)
        x = x + linear(out.reshape(B, T, H * N), wo.reshape(H * N, D))
        x = constrain(x, *hidden)

        h = rms_norm(x, norm("mlp_norm"), c.norm_eps)
        h = jax.nn.silu(linear(h, w_gate)) * linear(h, w_up)  # [B, T, F]
        h = constrain(h, "act_batch", length, "act_mlp")
        x = constrain(x + linear(h, w_down), *hidden)
        return (x, cache, layer + 1), None


REMAT = {
    "none": None,
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


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
        block = Block
        if c.remat != "none":
            block = nn.remat(Block, policy=REMAT[c.remat], prevent_cse=False)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
            unroll=c.scan_unroll or c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c)
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        self.final_norm = self.param("final_norm", ones, (c.embed_dim,), jnp.float32)
        if not c.tie_embeddings:
            init = nn.with_logical_partitioning(kernel_init(c.embed_dim), ("embed", "vocab"))
            self.unembedding = self.param("unembedding", init, table[::-1], jnp.float32)

    def hidden(self, tokens, positions=None, segment_ids=None, cache=None, slot=0):
        """The normalised residual stream.

        Args:
          tokens: [B, T] int32.
          positions: [B, T] int32; 0..T-1 by default.
          segment_ids: [B, T] int32; 0 is padding; one segment by default.
          cache: a KVCache to extend, or None. slot: the column of the first token in the cache.

        Returns:
          ([B, T, D] activation dtype, the extended cache or None).
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if cache is not None:
            segments = jax.lax.dynamic_update_slice(cache.segment_ids, segment_ids, (0, slot))
            cache = cache._replace(segment_ids=segments)
        split = cache is None and sequence.shards() > 1 and not self.is_initializing()
        if split:
            tokens, positions, segment_ids = map(sequence.split, (tokens, positions, segment_ids))
        # The model's table is sharded over its width; gathering rows then needs no one-hot.
        x = jnp.take(self.embedding.astype(self.config.activation_dtype), tokens, axis=0)
        length = "act_length" if cache is None else "act_slot"
        x = constrain(x, "act_batch", length, "act_embed")
        carry = (x, cache, jnp.int32(0))
        (x, cache, _), _ = self.layers(carry, positions, segment_ids, slot)
        x = sequence.join(x) if split else x
        return rms_norm(x, self.final_norm, self.config.norm_eps), cache

    def logits(self, hidden):
        """[..., D] -> float32 [..., V] over the padded vocabulary; ids beyond it get -1e30."""
        c = self.config
        table = self.embedding.T if c.tie_embeddings else self.unembedding
        logits = linear(hidden, table.astype(c.activation_dtype)).astype(jnp.float32)
        if logits.ndim == 3:
            logits = constrain(logits, "act_batch", "act_length", "act_vocab")
        if c.padded_vocab_size == c.vocab_size:
            return logits
        return jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, logits, -1e30)

    def __call__(self, tokens, positions=None, segment_ids=None):
        """Float32 logits [B, T, V] of the token after each."""
        return self.logits(self.hidden(tokens, positions, segment_ids)[0])

    def step(self, tokens, positions, segment_ids, cache: KVCache, slot):
        """Runs T tokens against a cache: (float32 logits [B, V] after the last one, new cache)."""
        hidden, cache = self.hidden(tokens, positions, segment_ids, cache, slot)
        return self.logits(hidden[:, -1]), cache
