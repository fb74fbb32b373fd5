"""How a score is read from a reward model's numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.packing import preference_rows, prompt_rows
from data.tokenizer import EOS, train
from model.config import TransformerConfig
from model.heads import reward_model
from train import rewards
from train.sampler import place

# Two answers of one row, columns 4 to 6 and 10 to 11; the third is the first, cut short.
VALUES = np.arange(12, dtype=np.float32)[None] ** 2
START, END = np.array([[4, 10, 4]]), np.array([[6, 11, 5]])


def test_last_reads_at_the_end():
    np.testing.assert_array_equal(rewards.read_scores(VALUES, START, END, "last"), [[36, 121, 25]])


def test_mean_is_over_the_tokens_of_the_answer_alone():
    got = rewards.read_scores(VALUES, START, END, "mean")
    want = [(16 + 25 + 36) / 3, (100 + 121) / 2, (16 + 25) / 2]
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_mean_passes_over_what_is_not_a_number_elsewhere():
    values = np.where(np.arange(12) < 4, np.nan, VALUES)
    assert np.all(np.isfinite(rewards.read_scores(values, START, END, "mean")))


def test_an_unknown_pool_is_an_error():
    config = TransformerConfig(vocab_size=8, embed_dim=8, num_layers=1, num_heads=2,
                               num_kv_heads=1, head_dim=4, mlp_dim=8)  # fmt: skip
    with pytest.raises(ValueError, match=r"loss\.pool='max'; choose last or mean"):
        dataclasses.replace(config, pool="max")


@pytest.mark.parametrize(
    ("pool", "share_prompt"), [("last", False), ("mean", False), ("mean", True)]
)
def test_an_answer_scores_in_training_what_it_scores_in_ppo(pool, share_prompt):
    """Packed among other candidates, behind one prompt with them, and alone behind a left-padded
    prompt."""
    tokenizer = train("byte", [], 0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=4, mlp_dim=24, pool=pool,
    )  # fmt: skip
    params = reward_model(config).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    messages, answers = [{"role": "user", "content": "why"}], ["so", "because", "no"]
    example = dict(messages=messages, responses=answers, rank=[0, 1, 2], kinds=["", "", ""])
    rows, _ = preference_rows([example], tokenizer, 24, 2, share_prompt, "error", {}, ("",))
    assert np.max(rows["segment_ids"]) == (1 if share_prompt else 2)
    trained = rewards.score_candidates(config, params, rows)[0]

    P, R = 12, 10
    prompt = prompt_rows([dict(messages=messages)], tokenizer, P, "error", {})[0]
    ids = np.zeros((3, R), np.int32)
    for row, answer in zip(ids, answers, strict=True):
        row[: len(answer) + 1] = [*tokenizer.encode(answer), EOS]
    response = np.arange(R) < np.array([len(a) + 1 for a in answers])[:, None]
    tokens = np.concatenate([np.repeat(prompt["tokens"], 3, 0), ids], axis=1)
    positions, segment_ids = place(tokens, np.repeat(prompt["mask"], 3, 0), response)
    end = P - 1 + response.sum(1)
    start = np.full(3, P)
    scored = rewards.score(config, params, tokens, positions, segment_ids, start, end)
    np.testing.assert_allclose(trained, scored, atol=1e-5)
