"""The vocabulary's loss in chunks: the same numbers, and never all of the logits."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scoring.text_rows import random_rows

from model.config import TransformerConfig
from model.kernels.plain import CHUNK as ATTENTION_CHUNK
from model.sharding import MeshConfig, make_mesh, parameter_shardings, put_batch
from model.transformer import Transformer
from model.vocabulary import map_logits
from train import losses, vocabulary

CONFIG = TransformerConfig(
    vocab_size=90, embed_dim=16, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=32, vocab_multiple=64, logit_softcap=5.0,
)  # fmt: skip
B, T = 8, 16
CHUNK = 4  # 15 predictions: three parts of 4 and one that is padded


@pytest.fixture(scope="module")
def boxed():
    return jax.jit(Transformer(CONFIG).init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


@pytest.fixture(scope="module")
def batch():
    return random_rows(B, T, 90)


def value_and_grad(chunk, config=CONFIG):
    def loss(params, batch):
        args = batch["tokens"], batch["positions"], batch["segment_ids"]
        model = Transformer(config)
        hidden, _ = model.apply({"params": params}, *args, method=Transformer.hidden)
        total, nats, weight = vocabulary.next_token_loss(config, params, hidden, batch, 0.01, chunk)
        return total / weight, nats

    return jax.value_and_grad(loss, has_aux=True)


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


@pytest.fixture(scope="module")
def whole(boxed, batch):
    return jax.device_get(jax.jit(value_and_grad(0))(nn.unbox(boxed)["params"], batch))


def test_whole_is_the_loss_of_the_models_logits(boxed, batch, whole):
    args = batch["tokens"], batch["positions"], batch["segment_ids"]
    logits = Transformer(CONFIG).apply(nn.unbox(boxed), *args)
    total, nats, weight = losses.next_token_loss(logits, batch["tokens"], batch["loss_mask"], 0.01)
    assert_same(whole[0], (total / weight, nats))


@pytest.mark.parametrize("chunk", [1, CHUNK, 15, 100])
def test_chunks_change_neither_loss_nor_gradients(boxed, batch, whole, chunk):
    got = jax.jit(value_and_grad(chunk))(nn.unbox(boxed)["params"], batch)
    assert_same(got, whole)


@pytest.mark.parametrize("axes", [dict(data=2, tensor=2, fsdp=2), dict(sequence=2)])
def test_chunks_on_a_mesh_are_chunks_on_one_device(boxed, batch, whole, axes):
    mesh = make_mesh(MeshConfig(**axes))
    with jax.set_mesh(mesh):
        params = jax.device_put(nn.unbox(boxed), parameter_shardings(boxed, mesh))["params"]
        got = jax.device_get(jax.jit(value_and_grad(CHUNK))(params, put_batch(batch, mesh)))
    assert_same(got, whole)


def test_all_logits_are_never_there_at_once(boxed, batch):
    """No array of the compiled gradient has a number for each position and id."""
    config = dataclasses.replace(CONFIG, vocab_size=1009, vocab_multiple=1)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), batch["tokens"])

    def largest(chunk):
        traced = jax.jit(value_and_grad(chunk, config)).trace(nn.unbox(params)["params"], batch)
        text = traced.lower().compile().as_text()
        sizes = [
            np.prod([int(n) for n in shape.split("[")[1].rstrip("]").split(",")])
            for shape in set(re.findall(r"f32\[[0-9,]*1009[0-9,]*\]", text))
        ]
        return max(sizes)

    assert largest(0) >= B * (T - 1) * 1009
    # The embedding and its moments aside, nothing is larger than a chunk.
    assert largest(2) <= max(B * 2 * 1009, 1009 * CONFIG.embed_dim)


def test_a_poisoned_masked_position_does_not_reach_a_chunked_gradient(boxed, batch):
    params = nn.unbox(boxed)["params"]
    hidden = jnp.ones((1, 3, 16)).at[0, 1].set(jnp.nan)
    mask = jnp.array([[1.0, 0.0, 1.0]])

    def loss(params):
        out = map_logits(
            CONFIG, params, losses.token_nats, 2, hidden, jnp.zeros((1, 3), jnp.int32), mask
        )
        return losses.sum_nats(*out, mask, 0.1)[0]

    assert np.isfinite(loss(params))


def test_on_cpu_the_last_position_is_not_read_where_it_would_be_a_chunk_of_attention():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 90, (2, ATTENTION_CHUNK + 1)).astype(np.int32)
    batch = {name: tokens for name in ("tokens", "positions", "segment_ids")}
    batch["loss_mask"] = rng.random(tokens.shape, np.float32)
    short = {name: x[:, 1:] for name, x in batch.items()}
    assert [x.shape[1] for x in vocabulary.inputs(CONFIG, batch)] == [ATTENTION_CHUNK] * 3
    assert vocabulary.inputs(CONFIG, short)[0].shape[1] == ATTENTION_CHUNK
    routed = dataclasses.replace(CONFIG, num_experts=2, experts_per_token=1)
    assert vocabulary.inputs(routed, batch)[0].shape == tokens.shape
    hidden = rng.normal(size=(*tokens.shape, 16)).astype(np.float32)
    params = {"embedding": rng.normal(size=(128, 16)).astype(np.float32)}
    of_all, of_inputs = (
        vocabulary.next_token_loss(CONFIG, params, x, batch, 0.01, 0)
        for x in (hidden, hidden[:, :-1])
    )
    np.testing.assert_array_equal(of_all, of_inputs)
