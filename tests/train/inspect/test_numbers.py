"""The lens, losses, rewards, values and answers, against the functions that training uses."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_runs.random_runs import CONFIG, TOKENIZER, write_run

from data import batch as batches
from model.sharding import MeshConfig, make_mesh
from train import inspect
from train.chat.model import Scorer
from train.evals.perplexity import Perplexity
from train.rl import forward

TEXT = "a few words"
CHAT = [
    {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."},
    {"role": "user", "content": "no"}, {"role": "assistant", "content": "yes"},
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs `separate` (a policy and its critic), `head` (a policy with a value
    head) and `reward`, and {run: {role: parameters}}."""
    path = tmp_path_factory.mktemp("runs")
    reward = dataclasses.replace(CONFIG, pool="mean")
    return path, {
        "separate": write_run(path / "separate", roles={"policy": 1, "value": 2}),
        "head": write_run(path / "head", roles={"policy": 1, "value_head": 3}),
        "reward": write_run(path / "reward", reward, roles={"reward": 4}),
    }


@pytest.fixture(scope="module")
def m(runs):
    return inspect.open(runs[0] / "separate")


def test_the_lens_of_the_last_layer_is_the_models_output(m):
    lens, trace = m.logit_lens(TEXT), m.trace(TEXT, ["logits", "layers.1.residual"])
    np.testing.assert_allclose(lens.logits(-1), trace["logits"], atol=1e-5)
    assert lens.rows == ("embedding", "0", "1", "2")
    p = {n: np.asarray(w, np.float64) for n, w in m.params.flat().items()}
    x = trace["layers.1.residual"].astype(np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * p["final_norm"]
    logits = (x @ p["embedding"].T)[:, : CONFIG.vocab_size]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(lens.logits(2), logits, atol=1e-4)
    np.testing.assert_array_equal(lens.ids[2], logits.argmax(-1))
    np.testing.assert_allclose(lens.probabilities[2], np.exp(logp.max(-1)), atol=1e-5)
    np.testing.assert_allclose(lens.entropies[2], -(np.exp(logp) * logp).sum(-1), atol=1e-4)
    following = logp[np.arange(len(x) - 1), lens.tokens.ids[1:]]
    np.testing.assert_allclose(lens.next_nats[2], -following, atol=1e-4)


@pytest.mark.parametrize("given", [TEXT, CHAT], ids=["text", "conversation"])
def test_losses_of_tokens_are_those_of_the_perplexity_evaluation(given, runs, m):
    path, params = runs
    losses = m.token_losses(given)
    tokens = losses.tokens
    assert "".join(tokens.texts[1:]) == TEXT or tokens.texts[1] == "<|user|>"
    row = batches.segment_row([(tokens.ids, tokens.weights)], len(tokens.ids) + 3)
    ctx = types.SimpleNamespace(
        models={"policy": CONFIG}, tokenizer=TOKENIZER,
        mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
        config=types.SimpleNamespace(loss=types.SimpleNamespace(chunk=0)),
    )  # fmt: skip
    sums = Perplexity(ctx, None)._sums(params["separate"]["policy"], batches.stack([row]))
    nats, weight = sums["loss"]
    assert losses.mask.sum() == weight
    np.testing.assert_allclose(losses.mean, nats / weight, rtol=1e-5)
    if given is CHAT:  # both answers, each with the token that ends it
        assert losses.mask.sum() == 3 + 1 + 3 + 1 and np.isnan(losses.values[0])


def test_a_reward_is_that_of_the_chat(runs):
    path, params = runs
    m = inspect.open(path / "reward")
    assert m.role == "reward"
    rewards = m.rewards(CHAT)
    scorer = Scorer("", m.config, params["reward"]["reward"], TOKENIZER)
    np.testing.assert_allclose(rewards.score, scorer.score(CHAT, ended=True), rtol=1e-5)
    np.testing.assert_allclose(rewards.score, rewards.values[rewards.mask].mean(), rtol=1e-5)
    trace = m.trace(CHAT, ["values"])
    np.testing.assert_allclose(trace["values"], rewards.values, atol=1e-5)
    with pytest.raises(ValueError, match="a reward is of an answer"):
        m.rewards(CHAT[:1])


def test_values_are_those_that_ppo_computes(runs):
    path, params = runs
    ids = inspect.open(path / "head").tokens(CHAT).ids
    count = 4  # tokens of the last answer
    batch = {"tokens": ids[None], "positions": np.arange(len(ids))[None],
             "segment_ids": np.ones((1, len(ids)), np.int32)}  # fmt: skip
    for name in ("separate", "head"):
        configs = dict.fromkeys(params[name], CONFIG)
        _, _, expected = forward.policy_and_values(configs, params[name], batch, (count, 1.0, 0))
        m = inspect.open(path / name)
        values = m.values(CHAT)
        np.testing.assert_allclose(values.values[-count - 1 : -1], expected[0], atol=1e-5)
        assert values.mask[-count - 1 : -1].all() and values.mask.sum() == 2 * count
    alone = inspect.open(path / "separate", role="value").values(CHAT)
    np.testing.assert_allclose(alone.values, inspect.open(path / "separate").values(CHAT).values)


def test_answers_have_the_probabilities_of_the_model(m):
    answers = m.generate(CHAT[:1], n=3, temperature=0.7, max_new_tokens=6, seed=1)
    assert len(answers) == 3 and len({a.text for a in answers}) > 1
    again = m.generate(CHAT[:1], n=3, temperature=0.7, max_new_tokens=6, seed=1)
    assert [a.text for a in again] == [a.text for a in answers]
    greedy = m.generate(TEXT, temperature=0, max_new_tokens=4)[0]
    first = m.trace(TEXT, "logits")["logits"][-1]
    allowed = np.delete(np.arange(len(first)), TOKENIZER.banned_ids)
    assert greedy.ids[0] == allowed[first[allowed].argmax()]
    np.testing.assert_allclose(
        greedy.logprobs[0], jax.nn.log_softmax(jnp.asarray(first))[greedy.ids[0]], atol=1e-4
    )
    with pytest.raises(ValueError, match="ends with an answer"):
        m.generate(CHAT)
    with pytest.raises(ValueError, match="give fewer max_new_tokens"):
        m.generate(TEXT, max_new_tokens=60)


def test_a_mesh_gives_the_same_numbers(runs, m):
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    spread = inspect.open(runs[0] / "separate", mesh=mesh)
    np.testing.assert_allclose(
        spread.token_losses(TEXT).values, m.token_losses(TEXT).values, atol=1e-5
    )
