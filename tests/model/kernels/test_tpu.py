"""Operations' forms for TPU, on the CPU: each gives the plain operation's result, alone and in a
whole program."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scoring.text_rows import random_rows

from model import cpu, vocabulary
from model.config import TransformerConfig
from model.kernels import tpu
from model.layers import mlp, projection, rotary, stack
from model.sharding import MeshConfig, make_mesh
from model.transformer import Transformer
from train import losses
from train import vocabulary as heads

CONFIG = TransformerConfig(
    vocab_size=90, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=32, vocab_multiple=64, layer_pattern=("local", "global"), window=5,
    local_rope_base=100.0, remat="minimal",
)  # fmt: skip
B, T, H, N = 2, 16, 3, 8


def on_tpu(monkeypatch):
    """The TPU's forms from here on; attention stays plain."""
    for module in (cpu, mlp, rotary, stack, tpu, vocabulary, losses, heads):
        monkeypatch.setattr(module, "platform", lambda: "tpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation_by_a_product_is_the_rotation_of_halves(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(B, T, H, N)), dtype) for _ in range(2))
    positions = jnp.asarray(rng.integers(0, 1000, (B, T)))

    def run():
        out, pull = jax.vjp(lambda x: rotary.rope(x, positions, 1e4), x)
        return out, *pull(g)

    plain = run()
    on_tpu(monkeypatch)
    for got, want in zip(run(), plain, strict=True):
        assert got.dtype == want.dtype
        got, want = np.float32(got), np.float32(want)
        np.testing.assert_allclose(got, want, atol=2e-6 if dtype == "float32" else 2**-7)


@pytest.mark.parametrize("name,inputs", [("out", (4, N)), ("down", (32,))])
def test_products_to_the_stream_gather_the_transpose_of_their_weight(monkeypatch, name, inputs):
    """On a mesh that splits both of its axes; with the plain product's values and gradients."""
    rng = np.random.default_rng(1)
    x, w, g = (jnp.asarray(rng.normal(size=shape), "float32")
               for shape in ((8, T, *inputs), (*inputs, 12), (8, T, 12)))  # fmt: skip

    def run(product, *args):
        return jax.jit(lambda x, w, g: (product(x, w), *jax.vjp(product, x, w)[1](g)))(*args)

    plain = run(lambda x, w: jnp.tensordot(x, w, len(inputs)), x, w, g)
    mesh, more = make_mesh(MeshConfig(fsdp=4, tensor=2)), [None] * (len(inputs) - 1)
    specs = P("fsdp", None, "tensor"), P("tensor", *more, "fsdp"), P("fsdp")
    monkeypatch.setattr(tpu, "platform", lambda: "tpu")
    assert tpu.projects(x, w)
    assert not tpu.projects(x[:, :1], w)  # a step of decoding
    with jax.set_mesh(mesh):
        args = jax.device_put((x, w, g), tuple(NamedSharding(mesh, spec) for spec in specs))
        got = run(lambda x, w: tpu.project(name, x, w), *args)
    for a, b in zip(got, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_sharded_gradient_is_the_gradient_in_the_parameters_parts():
    rng = np.random.default_rng(2)
    w, y = (rng.normal(size=(16, 24)).astype(np.float32) for _ in range(2))

    def loss(w):
        return jnp.sum(jnp.sin(tpu.shard_gradient(w, ("embed", "vocab"))) * y)

    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(loss))(jax.device_put(w, NamedSharding(mesh, P())))
    np.testing.assert_allclose(got, np.cos(w) * y, rtol=1e-5)
    assert got.addressable_shards[0].data.shape == (4, 12)


def test_log_probs_are_those_of_a_softmax():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, T, 50)).astype(np.float32) * 9
    x[..., 49] = -1e30  # an id that no text has
    ids, g = rng.integers(0, 49, (B, T)), rng.normal(size=(2, B, T)).astype(np.float32)

    def plain(x):
        logp = jnp.take_along_axis(jax.nn.log_softmax(x), ids[..., None], -1)[..., 0]
        return logp, jax.nn.logsumexp(x, axis=-1)

    (want, pull), (got, ours) = jax.vjp(plain, x), jax.vjp(lambda x: tpu.log_probs(x, ids), x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours(tuple(g))[0], pull(tuple(g))[0], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def batch():
    return random_rows(B, T, 90)


@pytest.fixture(scope="module")
def params(batch):
    params = jax.jit(Transformer(CONFIG).init)(jax.random.key(0), batch["tokens"])
    return nn.unbox(params)["params"]


def value_and_grad(params, batch, config=CONFIG):
    def loss(params):
        args = batch["tokens"], batch["positions"], batch["segment_ids"]
        hidden, _ = Transformer(config).apply({"params": params}, *args, method="hidden")
        total, _, weight = heads.next_token_loss(config, params, hidden, batch, 0.01, 0)
        return total / weight

    return jax.jit(jax.value_and_grad(loss))(params)


def test_a_program_for_tpu_has_the_plain_programs_loss_and_gradients(monkeypatch, params, batch):
    plain = value_and_grad(params, batch)
    on_tpu(monkeypatch)
    got = value_and_grad(params, batch)

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    jax.tree.map(same, got, plain)


def test_products_in_8_bits_are_the_same_with_heads_as_an_axis(monkeypatch, params, batch):
    config = dataclasses.replace(CONFIG, matmul="int8")
    loss, grads = value_and_grad(params, batch, config)
    on_tpu(monkeypatch)
    monkeypatch.setattr(projection, "platform", lambda: "tpu")
    got, got_grads = value_and_grad(params, batch, config)
    np.testing.assert_allclose(got, loss, rtol=1e-3)

    def near(a, b):  # sums in another order round a factor to the next of 127 steps
        assert jnp.linalg.norm(a - b) < 0.02 * jnp.linalg.norm(b)

    jax.tree.map(near, got_grads, grads)


def test_on_tpu_the_backward_pass_keeps_no_float32_logits(monkeypatch, params, batch):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    hidden = jnp.ones((B, T, 16), jnp.bfloat16)

    def kept():
        def nats(hidden):
            return heads.next_token_loss(config, params, hidden, batch, 0.0, 0)[0]

        _, pull = jax.eval_shape(lambda h: jax.vjp(nats, h), hidden)
        return {(x.dtype.name, x.shape) for x in jax.tree.leaves(pull) if x.shape[2:] == (128,)}

    monkeypatch.setattr(heads, "platform", lambda: "gpu")  # on CPU no logits are kept at all
    assert ("float32", (B, T - 1, 128)) in kept()
    on_tpu(monkeypatch)
    assert kept() == {("bfloat16", (B, T, 128))}
