"""Adapters and quantized weights against equivalent plain weights."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from model import lora, quantized, weights
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.lora import LoRA
from model.sharding import MeshConfig, make_mesh, parameter_shardings
from model.transformer import Transformer

DENSE = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=24, vocab_multiple=32,
)  # fmt: skip
MIXTURE = dataclasses.replace(DENSE, num_experts=4, experts_per_token=2)
TOKENS = jnp.arange(12).reshape(2, 6) % 20
SETTINGS = LoRA(rank=3, alpha=6.0)


def whole_model(config):
    """(params, their shapes and shardings on one device)."""
    boxed = jax.jit(Transformer(config).init)(jax.random.key(0), TOKENS)["params"]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    shardings = parameter_shardings(boxed, mesh)
    params = nn.unbox(boxed)
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings
    )
    return params, shapes


def adapters_of(shapes):
    """Adapters of every projection, with a B that is not zero."""
    flat = {}
    for path, like in flatten_dict(shapes).items():
        if weights.is_adaptable(path[-1]):
            pair = lora.abstract(path[-1], like, SETTINGS.rank)
            for end, x in zip((lora.A, lora.B), pair, strict=True):
                flat[*path[:-1], path[-1] + end] = x
    adapters = flatten_dict(lora.init(jax.random.key(1), unflatten_dict(flat)))
    for path, x in adapters.items():
        if path[-1].endswith(lora.B):
            assert not x.any()
            adapters[path] = 0.1 * jax.random.normal(jax.random.key(2), x.shape)
    return unflatten_dict(adapters)


def beside(params, adapters):
    whole = flatten_dict(params) | flatten_dict(lora.scaled(adapters, SETTINGS.scale))
    return unflatten_dict(whole)


@pytest.mark.parametrize(
    "config",
    [pytest.param(DENSE, id="dense"), pytest.param(MIXTURE, id="mixture", marks=pytest.mark.slow)],
)
def test_an_adapted_model_is_the_merged_one(config):
    """The forward pass, its gradient with respect to A and B, and (with the other model) cached
    decoding."""
    params, shapes = whole_model(config)
    adapters = adapters_of(shapes)
    model = Transformer(config)

    def adapted(adapters):
        return model.apply({"params": beside(params, adapters)}, TOKENS)

    def merged(adapters):
        return model.apply({"params": lora.merge(params, adapters, SETTINGS)}, TOKENS)

    def total(function):
        return jax.value_and_grad(lambda a: jnp.sum(jnp.sin(3 * function(a)[..., :20])))

    (value, grads), (want, want_grads) = (jax.jit(total(f))(adapters) for f in (adapted, merged))
    np.testing.assert_allclose(value, want, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), grads, want_grads)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))
    base = jax.jit(model.apply)({"params": params}, TOKENS)
    assert np.abs(jax.jit(adapted)(adapters) - base)[..., :20].max() > 0.01


def test_adapters_are_used_by_cached_decoding():
    params, shapes = whole_model(DENSE)
    adapters = adapters_of(shapes)
    mask, keys = jnp.ones(TOKENS.shape, bool), jax.random.split(jax.random.key(0), 2)
    sampling = Sampling(5, 0.0)
    run = jax.jit(generate, static_argnums=(0, 5))
    first, second = (
        run(DENSE, p, TOKENS, mask, keys, sampling)
        for p in (beside(params, adapters), lora.merge(params, adapters, SETTINGS))
    )
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-4)


def test_adapters_that_are_new_change_nothing():
    params, shapes = whole_model(DENSE)
    adapters = flatten_dict(adapters_of(shapes))
    zero = {k: 0 * x if k[-1].endswith(lora.B) else x for k, x in adapters.items()}
    apply = jax.jit(Transformer(DENSE).apply)
    got = apply({"params": beside(params, unflatten_dict(zero))}, TOKENS)
    np.testing.assert_array_equal(got, apply({"params": params}, TOKENS))


@pytest.mark.parametrize(
    "config",
    [pytest.param(DENSE, id="dense"), pytest.param(MIXTURE, id="mixture", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_a_quantized_base_is_its_dequantized_weights(config, dtype):
    """The same for the gradient with respect to the adapters."""
    params, shapes = whole_model(config)
    adapters, model = adapters_of(shapes), Transformer(config)
    held = quantized.convert(jax.tree.map(jax.device_put, params, jax.tree.map(
        lambda x: x.sharding, shapes)), dtype)  # fmt: skip
    plain = quantized.whole(held)
    for path, x in flatten_dict(plain).items():
        w = flatten_dict(params)[path]
        if not weights.is_adaptable(path[-1]):
            np.testing.assert_array_equal(x, w)
            continue
        assert 0 < np.abs(x - w).max() <= np.abs(w).max() / 120
        if dtype == "int8":
            row = weights.adaptable(path[-1])
            stacked, inputs = row.stacked, row.inputs
            scale = flatten_dict(held)[path].scale
            assert flatten_dict(held)[path].qvalue.dtype == jnp.int8
            kept = w.shape[:stacked] + (1,) * inputs + w.shape[stacked + inputs :]
            assert scale.shape == kept

    def total(adapters, params):
        logits = model.apply({"params": beside(params, adapters)}, TOKENS)
        return jnp.sum(jnp.sin(3 * logits[..., :20]))

    grad = jax.jit(jax.value_and_grad(total))
    (value, grads), (want, want_grads) = grad(adapters, held), grad(adapters, plain)
    np.testing.assert_allclose(value, want, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), grads, want_grads)


@pytest.mark.slow
def test_no_float_copy_of_an_int8_base_is_kept():
    """Without rematerialisation, the backward pass saves the int8 values."""
    config = dataclasses.replace(DENSE, embed_dim=128, head_dim=32, mlp_dim=512, num_layers=8)
    params, shapes = whole_model(config)
    adapters = adapters_of(shapes)
    placed = jax.tree.map(jax.device_put, params, jax.tree.map(lambda x: x.sharding, shapes))
    held = quantized.convert(placed, "int8")

    def total(adapters, params):
        return jnp.sum(Transformer(config).apply({"params": beside(params, adapters)}, TOKENS))

    compiled = jax.jit(jax.grad(total)).lower(adapters, held).compile()
    floats = sum(x.nbytes for x in jax.tree.leaves(params["layers"]))
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes < 0.4 * floats  # adapters are a good part at this size
    assert memory.temp_size_in_bytes < 0.5 * floats
