"""A cache in int8 against attention over keys and values that are rounded by hand.

Axes: B batch, T queries, S slots, H query heads, K key heads, N head size.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import TransformerConfig
from model.layers.kv_cache import cached_attention, extend, init_cache, keys_transposed

B, T, S, H, K, N = 2, 5, 8, 4, 2, 16
CONFIG = TransformerConfig(
    vocab_size=8, embed_dim=H * N, num_layers=2, num_heads=H, num_kv_heads=K, head_dim=N,
    mlp_dim=8, vocab_multiple=8,
)  # fmt: skip


def rounded(x):
    """x [..., N] in steps of 1/127.5 of each vector's largest value, 127 at most."""
    step = np.max(np.abs(x), axis=-1, keepdims=True) / 127.5
    return np.minimum(np.round(x / step), 127) * step


@pytest.mark.parametrize("heads, split", [(H, False), (K, True)])
def test_attention_reads_rounded_keys_and_values(heads, split):
    """With keys [..., N, S] and [..., S, N], layers in one array and in one each; the last token
    of every row comes by itself, to a column a row."""
    config = dataclasses.replace(CONFIG, num_heads=heads)
    assert keys_transposed(config) == (heads > K)
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, B, T, K, N)).astype(np.float32)
    k[..., 0], v[..., 0] = 4, 5  # the largest, of which -127.5 would round either way
    q = rng.normal(size=(B, 1, heads, N)).astype(np.float32)

    @jax.jit
    def attend(q, k, v):
        cache = init_cache(config, B, S, split_layers=split, int8=True)
        segments = jnp.where(jnp.arange(S) < T, 1, jnp.zeros((B, S), jnp.int32))
        cache = cache._replace(segment_ids=segments)
        cache = extend(cache, k[:, :-1], v[:, :-1], 1, 0, config)
        slot = jnp.full(B, T - 1)
        cache = extend(cache, k[:, -1:], v[:, -1:], 1, slot, config)
        return cached_attention(q, cache, 1, slot, jnp.ones((B, 1), jnp.int32), config)

    grouped = q.reshape(B, K, heads // K, N)
    logits = np.einsum("bkgn,btkn->bkgt", grouped, rounded(k)) / N**0.5
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = np.einsum("bkgt,btkn->bkgn", weights, rounded(v)).reshape(B, 1, heads, N)
    np.testing.assert_allclose(attend(q, k, v), want, atol=1e-5)
    assert np.max(np.abs(rounded(k) - k)) > 1e-3
