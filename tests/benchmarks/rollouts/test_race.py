"""The race of rollouts, of a tiny random model."""

import jax.numpy as jnp
import numpy as np

from benchmarks.random_models import random_params
from benchmarks.rollouts import race
from model.config import TransformerConfig
from model.generate import Sampling


def test_the_race_compares_the_samplers_turn_by_turn():
    config = TransformerConfig(
        vocab_size=64, vocab_multiple=64, embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=2,
        head_dim=8, mlp_dim=32,
    )  # fmt: skip
    prompts = np.arange(36, dtype=np.int32).reshape(12, 3)
    mask, sampling = jnp.ones_like(prompts, bool), Sampling(8, stop_ids=tuple(range(32)))
    rollout = race.Rollout(config, random_params(config), prompts, mask, sampling)
    result = race.race(rollout, slots=4, rounds=2)
    assert result["equal"] == {"batches": 1, "whole": 1} and 1 < result["mean_length"] < 4
    rates, ratios = result["answers_per_second"], result["ratios"]
    for name, values in ratios.items():
        np.testing.assert_allclose(values, np.divide(rates["slots"], rates[name]))
    assert result["bytes"]["slots"] < result["bytes"]["whole"]
    table = race.table(result)
    assert [row[0] for row in table.rows] == ["slots", "batches", "whole"]
    assert table.rows[1][-1] == "100.00%"
