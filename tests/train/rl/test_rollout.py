"""Experience from a rollout: alignment, rewards, options, with a tiny policy, critic and reference.

Axes: B episodes, P prompt length (left padded), R response length.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from episodes import (
    CONFIG,
    ENDED,
    LAST,
    MASK,
    PROMPT_LENGTHS,
    RESPONSE_LENGTHS,
    SCORES,
    B,
    P,
    R,
    make,
    make_batch,
    random_params,
    scalars,
)  # fmt: skip

from data.text.builtin import EOS, PAD
from model.generate import Sampling, generate
from model.heads import value_model
from model.transformer import Transformer
from model.vocabulary import entropy, log_probs
from train.rl import forward
from train.rl.sampler import place


@pytest.fixture(scope="module")
def models():
    return SimpleNamespace(
        policy=random_params(Transformer(CONFIG), 0),
        reference=random_params(Transformer(CONFIG), 1),
        value=random_params(value_model(CONFIG), 2),
    )


@pytest.fixture(scope="module")
def batch():
    return make_batch()


@pytest.fixture(scope="module")
def run(models, batch):
    """run(options, roles) -> what `make` returns of the real networks, once a set of options."""
    arrays = {}

    def experience(same=False, batch_size=B, **options):
        key = same, batch_size, *options.items()
        if key not in arrays:
            roles = vars(models) | ({"reference": models.policy} if same else {})
            arrays[key] = make(batch, roles, options, batch_size=batch_size)
        return arrays[key]

    return experience


@pytest.fixture
def experience(batch, monkeypatch):
    """`make_experience`, uncompiled, with tables of logits and values in place of the networks."""

    def of_logits(config, logits, rows, R, temperature, chunk):
        return log_probs(jnp.asarray(logits), rows["tokens"][:, -R:], temperature), jnp.ones((B, R))

    monkeypatch.setattr(forward, "response_logprobs", of_logits)
    monkeypatch.setattr(forward, "response_values", lambda config, params, rows, R: params)
    rng = np.random.default_rng(2)
    roles = {n: rng.normal(size=(B, R, CONFIG.vocab_size)) for n in ("policy", "reference")}
    roles |= {"value": np.zeros((B, R)), "critic": rng.normal(size=(B, R))}
    roles = {n: x.astype(np.float32) for n, x in roles.items()}

    def experience(s=None, scores=SCORES, train_policy=True, critic=False, **options):
        given = roles | ({"value": roles["critic"]} if critic else {})
        return make(batch, given, options, s, scores, train_policy, jit=lambda function: function)

    return experience


def score_returns(scores):
    """Returns at γ = 0.5, λ = 1, values of 0 and no KL: the score, halved at every token before."""
    ahead = LAST[:, None] - np.arange(R)
    return np.where(ahead >= 0, 0.5 ** np.abs(ahead), 0.0) * np.asarray(scores)[:, None]


# Where things are read.


def test_positions_count_real_tokens_and_padding_is_segment_0(batch):
    for b, (p, r) in enumerate(zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)):
        real = slice(P - p, P + r)
        np.testing.assert_array_equal(batch["positions"][b, real], np.arange(p + r))
        expected = np.zeros(P + R)
        expected[real] = 1
        np.testing.assert_array_equal(batch["segment_ids"][b], expected)


@pytest.fixture(scope="module")
def full(models):
    """(logits, values) at every column, of rows of any width."""

    @jax.jit
    def forward(tokens, positions, segment_ids):
        args = tokens, positions, segment_ids
        logits = Transformer(CONFIG).apply({"params": models.policy}, *args)
        return logits, value_model(CONFIG).apply({"params": models.value}, *args)

    return forward


def test_response_token_t_is_read_at_column_p_minus_1_plus_t(models, batch, full):
    logits, values = full(batch["tokens"], batch["positions"], batch["segment_ids"])
    logprobs = jax.jit(forward.response_logprobs, static_argnums=(0, 3, 4, 5))
    ours, entropies = logprobs(CONFIG, models.policy, batch, R, 0.7, 0)
    in_chunks = logprobs(CONFIG, models.policy, batch, R, 0.7, 4)
    np.testing.assert_allclose(in_chunks[0], ours, atol=1e-6)
    np.testing.assert_allclose(in_chunks[1], entropies, atol=1e-6)
    critic = jax.jit(forward.response_values, static_argnums=(0, 3))
    critic = critic(CONFIG, models.value, batch, R)
    for t in range(R):
        before, ids = logits[:, P - 1 + t], batch["tokens"][:, P + t]
        np.testing.assert_allclose(ours[:, t], log_probs(before, ids, 0.7), atol=1e-5)
        np.testing.assert_allclose(entropies[:, t], entropy(before, 0.7), atol=1e-5)
        np.testing.assert_allclose(critic[:, t], values[:, P - 1 + t], atol=1e-5)


def test_logits_and_values_do_not_depend_on_padding(batch, full):
    """Each row without its padding, padded on the left, on both sides and on the right."""
    padded = full(batch["tokens"], batch["positions"], batch["segment_ids"])
    width, rows, at = P + R + 3, [], []
    for b, (p, r) in enumerate(zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)):
        n = p + r
        for start in (0, 2, width - n):
            row = np.full((3, width), 9, np.int32)  # odd ids and positions in the padding
            row[2] = 0
            at.append((b, slice(P - p, P + r), slice(start, start + n)))
            row[:, at[-1][2]] = batch["tokens"][b, P - p : P + r], np.arange(n), np.ones(n)
            rows.append(row)
    alone = full(*np.stack(rows, axis=1))
    for i, (b, real, where) in enumerate(at):
        for ours, expected in zip(alone, padded, strict=True):
            np.testing.assert_allclose(ours[i, where], expected[b, real], atol=1e-5)


def test_logprobs_and_values_are_of_the_sampled_ids_at_the_temperature(run, models, batch, full):
    arrays, _, _ = run(temperature=0.7)
    logits, values = full(batch["tokens"], batch["positions"], batch["segment_ids"])
    ids = np.asarray(batch["tokens"][:, P:, None])
    logp = jax.nn.log_softmax(logits[:, P - 1 : -1] / 0.7)
    expected = np.take_along_axis(np.asarray(logp), ids, -1)[..., 0]
    np.testing.assert_allclose(arrays["old_logprobs"], expected, atol=1e-5)
    np.testing.assert_allclose(arrays["old_values"], values[:, P - 1 : -1], atol=1e-5)
    assert np.all(np.abs(arrays["ref_logprobs"] - expected)[MASK] > 1e-4)  # another network


def test_parts_of_a_rollout_give_what_the_whole_gives(run):
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5),
        run(temperature=0.7, batch_size=2),
        run(temperature=0.7),
    )


@pytest.mark.parametrize("total,rows", [(8, 3), (7, 2), (6, 4), (5, 5), (3, 8), (200, 64)])
def test_by_rows_takes_any_number_of_rows(total, rows):
    batch = {"x": jnp.arange(total), "y": jnp.arange(2 * total).reshape(total, 2)}
    seen = []

    def function(part):
        seen.append(len(part["x"]))
        return part["x"] * 10, part["y"]

    x, y = forward.by_rows(function, batch, rows)
    np.testing.assert_array_equal(x, np.arange(total) * 10)
    np.testing.assert_array_equal(y, batch["y"])
    assert max(seen) <= rows


# Rewards.


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_reference_itself_gives_a_kl_of_exactly_zero(run, temperature):
    arrays, _, metrics = run(same=True, temperature=temperature)
    np.testing.assert_array_equal(arrays["old_logprobs"], arrays["ref_logprobs"])
    assert metrics["kl"] == metrics["kl_per_token"] == 0
    np.testing.assert_allclose(arrays["returns"], score_returns(SCORES), atol=1e-5)


def test_the_score_lands_on_the_token_that_ends_the_answer(experience):
    arrays, _, metrics = experience(kl_coef=0.0)
    np.testing.assert_allclose(arrays["returns"], score_returns(SCORES), atol=1e-6)
    assert np.all(arrays["returns"][~MASK] == 0)
    np.testing.assert_allclose(metrics["reward"], SCORES.mean(), atol=1e-6)
    np.testing.assert_allclose(metrics["eos_rate"], ENDED.mean())
    np.testing.assert_allclose(metrics["length"], RESPONSE_LENGTHS.mean())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_is_taken_off_token_by_token(experience, estimator):
    arrays, _, metrics = experience(kl_estimator=estimator, kl_coef=0.3)
    d = (arrays["old_logprobs"] - arrays["ref_logprobs"]).astype(float)
    kl = {"k1": d, "k2": d**2 / 2, "k3": np.exp(-d) - 1 + d}[estimator]
    rewards = np.where(MASK, -0.3 * kl, 0)
    rewards[range(B), LAST] += SCORES
    expected, after = np.zeros((B, R)), np.zeros(B)
    for t in reversed(range(R)):
        after = expected[:, t] = rewards[:, t] + 0.5 * after
    np.testing.assert_allclose(arrays["returns"], np.where(MASK, expected, 0), atol=1e-5)
    np.testing.assert_allclose(metrics["kl"], (d * MASK).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl_per_token"], d[MASK].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "option,expected",
    [
        ("keep", SCORES),
        ("penalty", SCORES - 1.5 * ~ENDED),
        ("replace", np.where(ENDED, SCORES, 1.5)),
    ],
)
def test_missing_eos(experience, option, expected):
    arrays, _, metrics = experience(missing_eos=option, missing_eos_value=1.5, kl_coef=0.0)
    np.testing.assert_allclose(arrays["returns"], score_returns(expected), atol=1e-6)
    np.testing.assert_allclose(metrics["score_normalized"], np.mean(expected), atol=1e-6)
    np.testing.assert_allclose(metrics["score"], SCORES.mean(), atol=1e-6)  # raw


def test_an_answer_that_is_cut_off_may_teach_the_policy_nothing(experience):
    arrays, _, _ = experience(missing_eos="mask", kl_coef=0.0)
    np.testing.assert_array_equal(arrays["policy_mask"], MASK & ENDED[:, None])
    np.testing.assert_array_equal(arrays["response_mask"], MASK)  # the critic still learns from it
    np.testing.assert_allclose(arrays["returns"], score_returns(SCORES), atol=1e-6)


def test_an_answer_loses_what_it_takes_of_the_last_tokens(experience):
    """R = 6, the last four of them dear: lengths 6, 3, 1, 6 lose 1, 1/4, 0, 1."""
    arrays, _, _ = experience(overlong_buffer=4, kl_coef=0.0)
    expected = SCORES - np.array([1, 0.25, 0, 1])
    np.testing.assert_allclose(arrays["returns"], score_returns(expected), atol=1e-6)


def test_the_sampler_s_tokens_are_weighed_by_importance(experience, batch):
    """Its log-probabilities are 0 in these episodes, so the ratio is the trainer's probability."""
    plain, _, _ = experience(kl_coef=0.0)
    arrays, _, _ = experience(kl_coef=0.0, importance_cap=0.05)
    weight = np.minimum(np.exp(plain["old_logprobs"]), np.float32(0.05))
    assert 0 < np.mean(weight[MASK] == np.float32(0.05)) < 1
    np.testing.assert_allclose(arrays["advantages"], plain["advantages"] * weight, rtol=1e-5)
    np.testing.assert_array_equal(arrays["returns"], plain["returns"])


def test_scores_are_clipped_after_normalising_and_before_the_penalty(experience):
    arrays, _, _ = experience(score_clip=1.0, kl_coef=0.0, missing_eos="penalty")
    expected = np.clip(SCORES, -1, 1) - 1.0 * ~ENDED
    np.testing.assert_allclose(arrays["returns"], score_returns(expected), atol=1e-6)
    s = scalars(number=3, kl_coef=0.0, gain=0.5, bias=0.1)
    arrays, _, _ = experience(s=s, score_clip=1.0, kl_coef=0.0, missing_eos="penalty")
    expected = np.clip(SCORES * 0.5 + 0.1, -1, 1) - 1.0 * ~ENDED
    np.testing.assert_allclose(arrays["returns"], score_returns(expected), atol=1e-6)


def test_the_first_rollout_sets_the_normaliser_and_later_ones_keep_it(experience):
    options = dict(normalize_scores=True, kl_coef=0.0)
    arrays, s, _ = experience(**options)
    white = (SCORES - SCORES.mean()) / SCORES.std(ddof=1)
    np.testing.assert_allclose(arrays["returns"], score_returns(white), atol=1e-5)
    np.testing.assert_allclose(SCORES * s["gain"] + s["bias"], white, atol=1e-6)
    later = SCORES * 2 + 1
    s = s | {"rollout": np.int32(1)}
    arrays, later_scalars, _ = experience(s=s, scores=later, **options)
    assert (later_scalars["gain"], later_scalars["bias"]) == (s["gain"], s["bias"])
    np.testing.assert_allclose(
        arrays["returns"], score_returns(later * s["gain"] + s["bias"]), atol=1e-5
    )


@pytest.mark.parametrize("score", [0.0, 0.7, 3.0])
def test_equal_scores_set_no_scale_and_the_next_that_differ_do(experience, score):
    options = dict(normalize_scores=True, kl_coef=0.0)
    for number in (0, 1):
        equal = np.full(B, score, np.float32)
        arrays, s, metrics = experience(s=scalars(number, 0.0), scores=equal, **options)
        assert (s["gain"], s["bias"]) == (1, 0) and abs(metrics["score_normalized"]) < 1e-6
    _, s, _ = experience(s=scalars(2, 0.0), **options)
    np.testing.assert_allclose(s["gain"], 1 / SCORES.std(ddof=1), rtol=1e-5)
    _, later_scalars, _ = experience(s=s | {"rollout": np.int32(3)}, scores=SCORES * 2, **options)
    assert (later_scalars["gain"], later_scalars["bias"]) == (s["gain"], s["bias"])


def test_returns_without_spread_explain_nothing(experience):
    arrays, _, metrics = experience(
        scores=np.zeros(B, np.float32), critic=True, kl_coef=0.0, gamma=1.0, lam=1.0
    )
    assert metrics["return_std"] < 1e-6 and metrics["explained_variance"] == 0


def test_a_scale_that_the_reward_model_brings_is_kept_from_the_first_rollout_on(batch):
    roles = {"policy": 0, "reference": 0, "value": 0}
    options = dict(normalize_scores=True, kl_coef=0.0)
    s = scalars(number=0, kl_coef=0.0, gain=0.5, bias=0.1)

    def experience(normalizer):
        with pytest.MonkeyPatch.context() as patch:
            zeros = jnp.zeros((B, R))
            patch.setattr(forward, "response_logprobs", lambda *args: (zeros, zeros))
            patch.setattr(forward, "response_values", lambda *args: zeros)
            return make(batch, roles, options, s, jit=lambda f: f, normalizer=normalizer)

    _, later_scalars, metrics = experience((0.5, 0.1))
    assert (later_scalars["gain"], later_scalars["bias"]) == (s["gain"], s["bias"])
    np.testing.assert_allclose(metrics["score_normalized"], SCORES.mean() * 0.5 + 0.1, rtol=1e-5)
    _, other, metrics = experience(None)
    assert other["gain"] != s["gain"] and abs(metrics["score_normalized"]) < 1e-6


def test_equal_scores_normalise_to_zero(experience):
    arrays, s, _ = experience(
        scores=np.full(B, 3.0, np.float32), normalize_scores=True, kl_coef=0.0
    )
    assert np.all(np.isfinite(arrays["returns"]))
    np.testing.assert_allclose(arrays["returns"], 0, atol=1e-5)


def test_a_cut_off_answer_may_be_bootstrapped(experience):
    """γ = 0.5: the last token's return gains half of the critic's last value, in that row alone."""
    arrays, _, _ = experience(critic=True, kl_coef=0.0)
    np.testing.assert_allclose(arrays["returns"], score_returns(SCORES), atol=1e-5)
    arrays, _, _ = experience(critic=True, kl_coef=0.0, bootstrap_truncated=True)
    expected = SCORES + np.where(ENDED, 0, 0.5 * arrays["old_values"][range(B), LAST])
    np.testing.assert_allclose(arrays["returns"], score_returns(expected), atol=1e-5)


# What the update is given.


def test_advantages_are_whitened_over_the_rollout_and_returns_are_not(experience):
    raw, _, _ = experience(critic=True)
    arrays, _, _ = experience(critic=True, whiten_advantages=True)
    np.testing.assert_allclose(arrays["returns"], raw["returns"], atol=1e-5)
    np.testing.assert_allclose(
        raw["returns"][MASK], (raw["advantages"] + raw["old_values"])[MASK], atol=1e-5
    )
    valid = raw["advantages"][MASK]
    white = (valid - valid.mean()) / valid.std(ddof=1)
    np.testing.assert_allclose(arrays["advantages"][MASK], white, atol=1e-4)
    assert np.all(arrays["advantages"][~MASK] == 0)


def test_the_policy_learns_from_nothing_while_the_critic_warms_up(experience):
    np.testing.assert_array_equal(experience()[0]["policy_mask"], MASK)
    arrays, _, _ = experience(train_policy=False)
    assert not arrays["policy_mask"].any()
    np.testing.assert_array_equal(arrays["response_mask"], MASK)


def test_the_kl_coefficient_adapts_only_with_a_target(experience):
    _, s, metrics = experience(kl_coef=0.1)
    np.testing.assert_allclose(s["kl_coef"], 0.1)
    _, s, metrics = experience(kl_coef=0.1, kl_target=0.01, kl_horizon=100)
    sign = np.clip(metrics["kl"] / 0.01 - 1, -0.2, 0.2)
    np.testing.assert_allclose(s["kl_coef"], 0.1 * (1 + sign * B / 100), rtol=1e-5)
    assert abs(s["kl_coef"] - 0.1) > 1e-4
    np.testing.assert_allclose(metrics["kl_coef"], 0.1)  # the one that was used
    near = float(metrics["kl"]) / 1.1  # of the sum over tokens, not of a token
    _, s, _ = experience(kl_coef=0.1, kl_target=near, kl_horizon=100)
    np.testing.assert_allclose(s["kl_coef"], 0.1 * (1 + 0.1 * B / 100), rtol=1e-5)


def test_the_sampler_and_the_trainer_agree_on_logprobs(models):
    """generate, then the full forward: the gap of every rollout's metrics."""
    sampling = Sampling(R, 0.7, stop_ids=(EOS,), pad_id=PAD)
    prompt_mask = np.arange(P) >= P - PROMPT_LENGTHS[:, None]
    prompts = np.where(prompt_mask, 9, 0).astype(np.int32)

    @jax.jit
    def both(policy):
        keys = jax.random.split(jax.random.key(3), B)
        sample = generate(CONFIG, policy, prompts, prompt_mask, keys, sampling)
        positions, segments = place(sample.tokens, prompt_mask, sample.response_mask)
        rows = {"tokens": sample.tokens, "positions": positions, "segment_ids": segments}
        return sample, forward.response_logprobs(CONFIG, policy, rows, R, 0.7, 0)[0]

    sample, trained = both(models.policy)
    gap = jnp.where(sample.response_mask, sample.logprobs - trained, 0)
    assert np.max(np.abs(gap)) < 1e-5
