"""Rewards: a reward model's score of an answer, verifiers, and their settings."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.packing.preferences import preference_rows
from data.packing.prompts import prompt_rows
from data.text.builtin import EOS
from data.text.tokenizer import train
from model import sharding
from model.config import TransformerConfig
from model.heads import reward_model
from ranges import ConfigError
from train.config import run as configs
from train.rl import rewards, verifiers
from train.rl.sampler import Sampler, place

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
    with pytest.raises(ValueError, match=r"pool='max'; choose last or mean"):
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
    init = jax.jit(reward_model(config).init)
    params = init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    messages, answers = [{"role": "user", "content": "why"}], ["so", "because", "no"]
    example = dict(messages=messages, responses=answers, rank=[0, 1, 2], kinds=["", "", ""])
    rows, *_ = preference_rows([example], tokenizer, 24, 2, share_prompt, "error", {}, ("",))
    assert np.max(rows["segment_ids"]) == (1 if share_prompt else 2)
    trained = jax.jit(rewards.score_candidates, static_argnums=0)(config, params, rows)[0]

    P, R = 12, 10
    prompt = prompt_rows([dict(messages=messages)], tokenizer, P, "error", {})[0]
    ids = np.zeros((3, R), np.int32)
    for row, answer in zip(ids, answers, strict=True):
        row[: len(answer) + 1] = [*tokenizer.encode(answer), EOS]
    response = np.arange(R) < np.array([len(a) + 1 for a in answers])[:, None]
    tokens = np.concatenate([np.repeat(prompt["tokens"], 3, 0), ids], axis=1)
    positions, segment_ids = place(tokens, np.repeat(prompt["mask"], 3, 0), response)
    batch = dict(tokens=tokens, positions=positions, segment_ids=segment_ids,
                 response_mask=response.astype(np.float32))  # fmt: skip
    run = settings(["reward"])
    ctx = SimpleNamespace(
        config=dataclasses.replace(run, rl=dataclasses.replace(run.rl, response_length=R)),
        mesh=sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1]), tokenizer=tokenizer,
        models={"reward": config}, data=SimpleNamespace(train_examples=(), heldout_examples=[]),
    )  # fmt: skip
    scored = Sampler(ctx).score({"reward": params}, batch)
    np.testing.assert_allclose(trained, scored, atol=1e-5)


def episode(response, answer="", n=4):
    return rewards.Episode("?", response, np.zeros(1, np.int32), np.zeros(n, np.int32), answer)


@pytest.mark.parametrize(
    "response,answer,right",
    [
        ("3 + 4 = 7. #### 7", "So it is seven.\n#### 7", 1),
        ("#### 1,234", "1234", 1),
        ("the answer is $7.00.", "#### 7", 1),
        ("7 and then 8", "#### 7", 0),
        ("#### 7, not 8 #### -9", "-9", 1),
        ("no number", "#### 7", 0),
        ("no number", "none either", 0),
        ("#### no number 3", "3", 1),
    ],
)
def test_gsm8k_compares_final_numbers(response, answer, right):
    assert verifiers.gsm8k(episode(response, answer)) == right


def settings(init_from=(), reward_function="", **weights):
    rl, roles = configs.RLConfig(reward_function=reward_function), dict.fromkeys(init_from, "x")
    return configs.RunConfig(rl=rl, init_from=roles, rewards=configs.RewardsConfig(**weights))


def test_verifiers_by_name():
    config = settings(exact=1.0, regex=2.0, length=0.5, pattern="^yes.*no$", target_length=8)
    functions = rewards.verifiers(config)
    assert functions.keys() == {"exact", "regex", "length"}
    assert functions["exact"](episode(" a  b\n", "a b")) == 1
    assert functions["exact"](episode("a B", "a b")) == 0
    assert functions["regex"](episode("yes\nand no")) == 1
    assert functions["regex"](episode("and yes\nand no")) == 0
    for n, score in ((8, 1.0), (6, 0.75), (12, 0.5), (16, 0.0), (99, 0.0)):
        assert functions["length"](episode("", n=n)) == score
    assert rewards.weights(config) == {"exact": 1.0, "regex": 2.0, "length": 0.5}


def test_which_rewards_count():
    assert rewards.weights(settings()) == {}
    assert rewards.weights(settings(["policy", "reward"])) == {"model": 1.0}
    both = settings(["reward"], "math:sqrt", model=0.5, gsm8k=2.0)
    assert rewards.weights(both) == {"model": 0.5, "function": 1.0, "gsm8k": 2.0}
    assert rewards.verifiers(both)["function"] is math.sqrt
    assert rewards.weights(settings(["reward"], model=0.0)) == {}


def test_a_verifier_without_references_is_an_error():
    rewards.validate_answers(settings(length=1.0, target_length=3), ["", "4"])
    with pytest.raises(ConfigError, match=r"rewards\.gsm8k .* 1 of 2 prompts have none"):
        rewards.validate_answers(settings(gsm8k=1.0), ["", "4"])


@pytest.mark.parametrize("devices", [1, 8])
def test_a_score_is_the_weighted_sum_of_its_rewards(devices):
    """Each row with its own reference, whatever device it lies on."""
    tokenizer = train("byte", [], 0)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])
    config = settings(gsm8k=2.0, length=-0.5, target_length=3)
    answers = [str(i) for i in range(8)]
    examples = [{"answer": a} for a in answers]
    ctx = SimpleNamespace(
        config=config, mesh=mesh, tokenizer=tokenizer, models={},
        data=SimpleNamespace(heldout_examples=examples, train_examples=examples[:1]),
    )  # fmt: skip
    said = [tokenizer.encode(str(i if i % 2 else 9)) for i in range(8)]
    tokens = np.array([[EOS, *ids, EOS, 0] for ids in said], np.int32)
    batch = {"tokens": tokens, "segment_ids": np.array([[1, 1, 1, 0]] * 8),
             "response_mask": np.array([[1.0, 1.0, 0.0]] * 8)}  # fmt: skip
    got = Sampler(ctx).rewards({}, sharding.put_batch(batch, mesh), answers)
    np.testing.assert_array_equal(got["gsm8k"], [0, 1] * 4)
    np.testing.assert_allclose(got["length"], [2 / 3] * 8, rtol=1e-6)
    np.testing.assert_allclose(got["score"], [-1 / 3, 2 - 1 / 3] * 4, rtol=1e-6)
