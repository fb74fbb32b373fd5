"""Rematerialisation: the same gradients from fewer saved numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import REMAT_POLICIES, TransformerConfig
from model.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=30, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=48, vocab_multiple=32,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 12)).astype(np.int32)


def loss(remat):
    model = Transformer(dataclasses.replace(CONFIG, remat=remat))
    return lambda params: jnp.sum(jnp.sin(model.apply(params, TOKENS)))


@pytest.fixture(scope="module")
def params():
    return jax.jit(Transformer(CONFIG).init)(jax.random.key(0), TOKENS)


@pytest.fixture(scope="module")
def plain(params):
    return jax.device_get(jax.jit(jax.grad(loss("none")))(params))


@pytest.mark.parametrize("remat", REMAT_POLICIES[1:])
def test_every_policy_gives_the_same_gradients(params, plain, remat):
    got = jax.jit(jax.grad(loss(remat)))(params)

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())

    jax.tree.map(same, got, plain)


def test_each_policy_saves_less_than_the_one_before(params):
    weights = {x.shape for x in jax.tree.leaves(params)}

    def saved(remat):
        _, pull = jax.eval_shape(lambda p: jax.vjp(loss(remat), p), params)
        of_layers = [x for x in jax.tree.leaves(pull) if x.shape[:1] == (CONFIG.num_layers,)]
        return sum(math.prod(x.shape) for x in of_layers if x.shape not in weights)

    none, minimal, matmuls, qkv, projections, full, offload = map(saved, REMAT_POLICIES)
    assert none > minimal > matmuls > qkv > projections > full
    assert full == TOKENS.size * CONFIG.embed_dim * CONFIG.num_layers
    assert offload == qkv


def test_what_is_offloaded_goes_to_the_hosts_memory(params):
    for remat in ("qkv", "offload"):
        text = str(jax.make_jaxpr(jax.grad(loss(remat)))(params))
        assert ("<host>" in text) == (remat == "offload")
