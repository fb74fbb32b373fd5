"""Sampling in slots: the answers of `generate`, whatever the slots, the settings and the mesh.

Axes: B prompts, P prompt length (left padded), R response length.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import generate, quantized
from model.config import TransformerConfig
from model.decoding import refill
from model.generate import Sampling
from model.sharding import MeshConfig, make_mesh, put_batch
from model.transformer import Transformer
from tpu.fit import hlo

CONFIG = TransformerConfig(
    vocab_size=12, embed_dim=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    mlp_dim=128, vocab_multiple=8, max_length=32,
)  # fmt: skip
B, P, R = 48, 16, 12
RANDOM = np.random.default_rng(0)
MASK = np.arange(P) >= P - RANDOM.integers(1, P + 1, (B, 1))
PROMPTS = np.where(MASK, RANDOM.integers(0, 12, (B, P)), 0).astype(np.int32)
# Answers end at one of these ids: most early, some not before R.
SAMPLING = Sampling(R, 0.8, stop_ids=(3, 8), pad_id=11)


def random_params(config):
    init = partial(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    shapes = nn.unbox(jax.eval_shape(init))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.15, x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


whole = jax.jit(generate.generate, static_argnums=(0, 5))
in_slots = jax.jit(refill.generate, static_argnums=(0, 5, 6, 7))


def keys(samples=1):
    return jax.random.split(jax.random.key(7), B * samples)


def compare(config, params, sampling, slots, widths=1, rtol=1e-5):
    """(Sample of `generate`, Sample of `slots` slots), of the same tokens."""
    args = config, params, PROMPTS, MASK, keys(sampling.samples), sampling
    want, got = jax.device_get((whole(*args), in_slots(*args, slots, widths)))
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.response_mask, want.response_mask)
    np.testing.assert_allclose(got.logprobs, want.logprobs, rtol=rtol)
    return want, got


def test_answers_are_those_of_generate_bit_for_bit(monkeypatch):
    """Sizes for which XLA on CPU rounds a row alike in any number of rows: with few rows,
    or small matrices, it sums some products in another order."""
    monkeypatch.setattr(refill, "PARTS", 2)
    config = dataclasses.replace(
        CONFIG, embed_dim=128, head_dim=32, mlp_dim=256, vocab_size=512, vocab_multiple=128
    )
    sampling = dataclasses.replace(SAMPLING, stop_ids=tuple(range(80)))
    prompts, mask = (np.tile(x, (4, 1)) for x in (PROMPTS, MASK))
    args = config, random_params(config), prompts, mask, keys(4), sampling
    want, got = jax.device_get((whole(*args), in_slots(*args, 128)))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    lengths = want.response_mask.sum(1)
    assert len(np.unique(lengths)) > 6 and lengths.max() == R


@pytest.mark.parametrize(
    "slots, options",
    [(1, {"max_new_tokens": 3}), (5, {"temperature": 0.0}), (64, {"max_new_tokens": 1})],
)
def test_a_slot_or_more_than_prompts(params, slots, options):
    compare(CONFIG, params, dataclasses.replace(SAMPLING, **options), slots)


def test_several_answers_to_a_prompt_with_windows_and_unrolled_layers(params):
    """Three answers a prompt begin together, two prompts at a time; the keys are transposed. Of
    three widths, those of a refill are as wide as its longest prompt needs."""
    config = dataclasses.replace(CONFIG, layer_pattern=("local", "global"), window=3, scan_unroll=0)
    want, _ = compare(config, params, dataclasses.replace(SAMPLING, samples=3), 33, widths=3)
    assert len(np.unique(want.tokens, axis=0)) > 2 * B


def test_adapters_on_int8_weights_and_an_int8_cache(params):
    rng = np.random.default_rng(1)
    shapes = {"query_lora_a": (2, 64, 2), "query_lora_b": (2, 2, 4, 16)}
    adapters = {k: jnp.asarray(rng.normal(0, 0.2, s), jnp.float32) for k, s in shapes.items()}
    layers = params["layers"] | {"down": quantized.quantize("down", params["layers"]["down"])}
    compare(CONFIG, {**params, "layers": layers | adapters}, SAMPLING, 12)
    # A difference of float32's rounding may be a step of int8.
    sampling = dataclasses.replace(SAMPLING, int8_cache=True)
    compare(CONFIG, params, sampling, 12, rtol=1e-2)


def test_long_prompts_are_read_a_few_at_a_time(params, monkeypatch):
    """Two of four prompts at a time, on two shards, in two widths."""
    monkeypatch.setattr(refill, "READ", 2 * P)
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    want = jax.device_get(whole(CONFIG, params, PROMPTS, MASK, keys(), SAMPLING))
    with jax.set_mesh(mesh):
        batch = (put_batch(x, mesh) for x in (PROMPTS, MASK))
        got = jax.device_get(in_slots(CONFIG, params, *batch, keys(), SAMPLING, 32, 2))
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logprobs, want.logprobs, rtol=1e-5)


def test_no_row_of_the_cache_leaves_its_shard(params):
    """Rows over data, heads over tensor; the answers are those of one device."""
    mesh = make_mesh(MeshConfig(data=4, tensor=2), jax.devices()[:8])
    want = jax.device_get(whole(CONFIG, params, PROMPTS, MASK, keys(), SAMPLING))
    with jax.set_mesh(mesh):
        batch = (put_batch(x, mesh) for x in (PROMPTS, MASK))
        compiled = in_slots.lower(CONFIG, params, *batch, keys(), SAMPLING, 16).compile()
        batch = (put_batch(x, mesh) for x in (PROMPTS, MASK))
        got = jax.device_get(compiled(params, *batch, keys()))
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logprobs, want.logprobs, rtol=1e-5)
    moved = [(c.kind, c.shape.dims) for c in hlo.read(compiled.as_text()).collectives]
    assert moved and not any(P + R in dims or len(dims) > 3 for _, dims in moved)
