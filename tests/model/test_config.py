"""TransformerConfig refuses what cannot be built, and says which field."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import TransformerConfig
from model.pretrained.families import family_of
from model.pretrained.hf_config import config_from_hf, config_to_hf
from model.sizes import SIZES
from model.transformer import Transformer
from model.weights import flops_per_token

GOOD = dict(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32
)


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(num_kv_heads=3), r"model\.num_kv_heads=3 does not divide model\.num_heads=4"),
        (dict(num_kv_heads=8), r"model\.num_kv_heads=8 does not divide"),
        (dict(head_dim=7), r"model\.head_dim=7 is odd"),
        (dict(remat="some"), r"model\.remat='some'; choose none, minimal, matmuls, qkv"),
        (dict(dtype="float16"), r"model\.dtype='float16'; choose float32, bfloat16"),
        (dict(scan_unroll=3), r"model\.scan_unroll=3 is not in 0\.\.2"),
        (dict(scan_unroll=-1), r"model\.scan_unroll=-1; it must be at least 0"),
        (dict(num_layers=0), r"model\.num_layers=0; it must be at least 1 and at most 10,000"),
        (dict(vocab_size=-1), r"model\.vocab_size=-1; it must"),
        (dict(max_length=0), r"model\.max_length=0; it must"),
        (dict(layer_pattern=("local",)), r"model\.window=0 and model\.layer_pattern=\('local',\)"),
        (
            dict(window=4),
            r"model\.window=4 and model\.layer_pattern=\(\): a window is of the local",
        ),
        (dict(layer_pattern=("near",), window=4), r"layer_pattern has 'near'; choose global or"),
        (dict(layer_pattern=("local",) * 3, window=4), r"names 3 layers, and there are .*=2"),
        (dict(activation="relu"), r"model\.activation='relu'; choose silu, gelu_tanh"),
        (
            dict(rope_scaling=dict(kind="yarn", factor=2.0)),
            r"rope_scaling\.kind='yarn'; choose lin",
        ),
    ],
)
def test_a_field_that_cannot_be_is_an_error(change, message):
    TransformerConfig(**GOOD)
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**(GOOD | change))


@pytest.mark.parametrize("size,multiple,padded", [(20, 16, 32), (32, 16, 32), (33, 1, 33)])
def test_the_vocabulary_is_rounded_up(size, multiple, padded):
    config = TransformerConfig(**(GOOD | dict(vocab_size=size, vocab_multiple=multiple)))
    assert config.padded_vocab_size == padded


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_is_valid(name):
    TransformerConfig(vocab_size=1000, **SIZES[name])


def test_flops_are_six_a_weight_and_causal_attention():
    """Computed by hand for GOOD with 128 rows of vocabulary: two matmuls of T/2 keys a head and
    layer."""
    weights = 2 * (16 * 8 * 4 * 2 + 16 * 8 * 2 * 2 + 3 * 16 * 32) + 128 * 16
    attention = 2 * 4 * (10 / 2) * 8 * 2  # layers, heads, keys, head size, scores and values
    assert flops_per_token(TransformerConfig(**GOOD), 10) == 6 * (weights + attention)


def test_flops_count_the_window_and_the_experts_of_a_token():
    config = TransformerConfig(
        **GOOD, layer_pattern=("local", "global"), window=4, num_experts=6, experts_per_token=2
    )
    weights = 2 * (16 * 8 * 4 * 2 + 16 * 8 * 2 * 2 + 2 * 3 * 16 * 32 + 16 * 6) + 128 * 16
    within = np.mean([min(t, 4) for t in np.linspace(0, 10, 100_001)])  # keys of a local query
    attention = 2 * 4 * 8 * (10 / 2 + within)
    np.testing.assert_allclose(flops_per_token(config, 10), 6 * (weights + attention), rtol=1e-4)


# Billions of parameters, as the models' own papers and pages have them, with their vocabularies.
PUBLISHED = {
    "llama2-7b": (32_000, 6.74), "llama3.1-8b": (128_256, 8.03), "llama3.1-405b": (128_256, 405.9),
    "llama3.2-1b": (128_256, 1.24), "llama3.2-3b": (128_256, 3.21),
    "smollm2-135m": (49_152, 0.1345), "smollm2-1.7b": (49_152, 1.71),
    "mistral-7b": (32_000, 7.24), "mixtral-8x7b": (32_000, 46.7), "mixtral-8x22b": (32_000, 140.6),
    "qwen2.5-0.5b": (151_936, 0.494), "qwen2.5-7b": (152_064, 7.62), "qwen2.5-72b": (152_064, 72.7),
    "qwen3-0.6b": (151_936, 0.596), "qwen3-8b": (151_936, 8.19), "qwen3-30b-a3b": (151_936, 30.5),
    "qwen3-235b-a22b": (151_936, 235.1),
    "gemma2-2b": (256_000, 2.61), "gemma2-27b": (256_000, 27.2),
    "gemma3-270m": (262_144, 0.268), "gemma3-1b": (262_144, 1.0), "gemma3-12b": (262_208, 11.77),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_have_the_published_number_of_parameters(name):
    vocab_size, billions = PUBLISHED[name]
    config = TransformerConfig(vocab_size=vocab_size, vocab_multiple=1, **SIZES[name])
    model, tokens = Transformer(config), jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), tokens)))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert abs(count / 1e9 - billions) < 0.006 * billions


def test_open_sizes_are_families_of_transformers():
    for name, size in SIZES.items():
        if "-" in name:
            config = TransformerConfig(vocab_size=1000, **size)
            assert config_from_hf(config_to_hf(config)) == config
            family = name.split("-")[0].rstrip("0123456789.").replace("smollm", "llama")
            assert family_of(config).startswith(family)
