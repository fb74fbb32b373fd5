"""The race beside TRL, without TRL: its judge, its counting, and what it says without trl."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ppo import __main__ as command
from benchmarks.ppo import race, toy
from benchmarks.random_models import random_params
from model.config import TransformerConfig


def test_the_judge_of_a_policy_that_says_one_thing():
    """Token 7 alone, against a uniform reference: every answer scores 1 at R·log V nats."""
    shape = dict(embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8)
    config = TransformerConfig(vocab_size=32, vocab_multiple=32, tie_embeddings=False, **shape)
    uniform = random_params(config) | {"unembedding": jnp.zeros((8, 32))}
    sure = uniform | {
        "embedding": jnp.ones((32, 8)),
        "layers": jax.tree.map(jnp.zeros_like, uniform["layers"]),
        "unembedding": jnp.zeros((8, 32)).at[:, 7].set(100.0),
    }
    prompts = np.full((4, toy.PROMPT), 7, np.int32)
    score, kl = race.judge(config, sure, uniform, prompts)
    np.testing.assert_allclose(score, (6 + 8) / 8)
    np.testing.assert_allclose(kl, 8 * np.log(32), rtol=1e-5)
    score, kl = race.judge(config, uniform, uniform, prompts)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
    assert np.all(score < 14 / 8)


def test_sides_are_compared_over_seeds():
    def side(j, seconds):
        clock = [seconds, seconds, 10 * seconds, *[2 * seconds] * 8]
        return {"j": j, "update_seconds": clock, "processor_seconds": [seconds / 2, seconds]}

    result = race.summary(
        [{"TRL": side(j, 6.0), "ours": side(j + 0.1, 1.0)} for j in (0.3, 0.4, 0.5)]
    )
    assert result["TRL"]["j"] == pytest.approx(0.4)
    assert result["TRL"]["error"] == pytest.approx(0.1 / 3**0.5)
    assert result["TRL"]["ahead"] == pytest.approx(3**0.5)
    # Of 33 updates six are quick, and three slow.
    assert result["ours"]["times"] == {"median": 2.0, "processor": 0.75, "quick": 1.0}
    assert result["TRL"]["speedup"] == pytest.approx(dict(median=6.0, processor=6.0, quick=6.0))
    assert "ahead" not in result["ours"]
    theirs, ours = command.table_of_sides(result).rows
    assert theirs == ["TRL", "0.400 ± 0.058", "12000", "4500", "6000", "6.00, 6.00, 6.00", "+1.7"]
    assert ours == ["ours", "0.500 ± 0.058", "2000", "750", "1000", "", ""]


def test_a_python_without_trl_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match="trl"):
        race.run_trl("false", tmp_path, 0, "linear", 1)
