"""Mimetic initialisation: tokens attend to similar tokens, and variants of a word are
correlated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import TransformerConfig
from model.heads import reward_model
from model.mimetic import CORRELATION, mimetic
from model.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=1000, embed_dim=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    mlp_dim=24, vocab_multiple=128,
)  # fmt: skip
WORD_OF = np.arange(1000) // 2 * 2  # ids 2k and 2k + 1 are one word


def init(model):
    return nn.unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))["params"]


@pytest.fixture(scope="module")
def before():
    return init(Transformer(CONFIG))


@pytest.fixture(scope="module")
def after(before):
    return mimetic(before, WORD_OF, jax.random.key(1))


def test_variants_of_a_word_are_correlated_and_no_larger(before, after):
    embedding = np.asarray(after["embedding"])
    assert embedding.shape == before["embedding"].shape
    np.testing.assert_allclose(embedding.std(), np.std(before["embedding"]), rtol=0.01)
    even, odd = embedding[:1000:2], embedding[1:1000:2]
    alike = np.corrcoef(even.ravel(), odd.ravel())[0, 1]
    np.testing.assert_allclose(alike, CORRELATION, atol=0.01)
    assert abs(np.corrcoef(even.ravel(), np.roll(odd, 1, axis=0).ravel())[0, 1]) < 0.02


def test_the_first_query_head_of_a_group_starts_as_its_key_head(before, after):
    query, key = after["layers"]["query"], after["layers"]["key"]
    np.testing.assert_array_equal(query[..., ::2, :], key)
    np.testing.assert_array_equal(query[..., 1::2, :], before["layers"]["query"][..., 1::2, :])


def test_a_token_looks_for_its_like(after):
    """A first-layer query meets the key of its word's variant before that of any other word."""
    x = np.asarray(after["embedding"][:200])
    x = x / np.sqrt((x**2).mean(-1, keepdims=True))
    key = np.asarray(after["layers"]["key"][0, :, 0])
    scores = (x @ key) @ (x @ key).T - np.diag(np.full(200, np.inf))
    accuracy = np.mean(scores.argmax(1) == (np.arange(200) ^ 1))
    assert accuracy > 0.5, accuracy  # chance is 1 in 199


def test_a_scalar_model_gets_it_in_its_backbone():
    before = init(reward_model(CONFIG))
    after = mimetic(before, WORD_OF, jax.random.key(1))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    layers = after["backbone"]["layers"]
    np.testing.assert_array_equal(layers["query"][..., ::2, :], layers["key"])
    np.testing.assert_array_equal(after["head"], before["head"])
