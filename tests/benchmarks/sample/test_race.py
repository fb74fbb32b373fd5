"""The race of two samplers, without the other system: both sides are ours."""

import json

import jax
import numpy as np
import pytest

from benchmarks import random_models
from benchmarks.sample import race
from model.config import TransformerConfig
from train.interop import published


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(config, params) that went through the Hugging Face directory which the other side reads."""
    shape = dict(embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32)
    config = TransformerConfig(vocab_size=64, vocab_multiple=64, **shape)
    path = tmp_path_factory.mktemp("model")
    random_models.write_hf(path, config, random_models.random_params(config))
    assert json.loads((path / "config.json").read_text())["dtype"] == "float32"
    return published.load(path)


def test_the_race_counts_rounds_and_equal_rows(model):
    class Slower(race.Ours):
        """Takes twice as long, and its last row differs."""

        def run(self, *args):
            seconds, tokens = super().run(*args)
            tokens = tokens.copy()
            tokens[-1] += 1
            return 2.0, tokens

    class Timed(race.Ours):
        def run(self, *args):
            return 1.0, super().run(*args)[1]

    prompts = np.arange(12, dtype=np.int32).reshape(4, 3)
    two, one = jax.devices()[:2], jax.devices()[:1]
    result = race.race(Timed(*model, two), Slower(*model, one), prompts, 5, 3)
    assert result["ours"] == [20.0] * 3 and result["theirs"] == [10.0] * 3
    assert result["ratio"] == 2.0
    assert result["greedy_equal"] == 3 and result["rows"] == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_divided_model_decodes_what_the_whole_one_does(dtype):
    config = TransformerConfig(
        vocab_size=64, vocab_multiple=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=2,
        head_dim=8, mlp_dim=32, dtype=dtype,
    )  # fmt: skip
    params = random_models.random_params(config)
    prompts = np.arange(12, dtype=np.int32).reshape(4, 3)
    devices = jax.devices()[:4]
    divided = race.Ours(config, params, devices, tensor=2)
    for name in ("gate", "down"):  # in bfloat16 turned
        (weight,) = jax.tree.leaves(divided.params["layers"]["0"][name])
        assert weight.addressable_shards[0].data.size == weight.size // 2
    whole = race.Ours(config, params, devices[:1])
    np.testing.assert_array_equal(divided.run(prompts, 5, 0.0)[1], whole.run(prompts, 5, 0.0)[1])


def test_a_python_without_torch_says_what_to_do(model, tmp_path):
    with pytest.raises(RuntimeError, match=r"other_env\.sh"):
        race.Theirs("false", tmp_path, 1, "sdpa")
