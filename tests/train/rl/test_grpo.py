"""GRPO and its variants: advantages of groups, means of losses, ratios of sequences, draws."""

from collections import Counter
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from episodes import MASK, SCORES, B, R, make, make_batch, settings

from data.pipeline import Data
from model import sharding
from train import losses
from train.config.run import RunConfig
from train.objectives.grpo import GRPOConfig, advantages
from train.rl import advantages as adv
from train.rl import forward, hacking, rollout
from train.rl.sampler import Sampler
from train.rl.scoring import Verified

GROUPS = np.array([[1.0, 0.0, 0.5, 3.0], [2.0, 2.0, 2.0, 2.0], [-1.0, 4.0, 0.0, 0.0]], np.float32)


def test_an_answer_is_compared_with_the_others_to_its_prompt():
    """RLOO: less the mean of the others; the rest by definition; equal rewards teach nothing."""
    others = [[x - np.mean(np.delete(g, i)) for i, x in enumerate(g)] for g in GROUPS]
    got = adv.group_advantages(GROUPS.reshape(-1), 4, "others", "none")
    np.testing.assert_allclose(got, np.reshape(others, -1), atol=1e-6)
    centered = GROUPS - GROUPS.mean(1, keepdims=True)
    got = adv.group_advantages(GROUPS.reshape(-1), 4, "mean", "none")
    np.testing.assert_allclose(got, centered.reshape(-1), atol=1e-6)
    got = adv.group_advantages(GROUPS.reshape(-1), 4, "mean", "std").reshape(3, 4)
    np.testing.assert_allclose(got[0], centered[0] / GROUPS[0].std(ddof=1), atol=1e-5)
    assert not np.any(got[1])


def test_the_means_of_a_loss():
    x = np.random.default_rng(0).normal(size=(B, R)).astype(np.float32)
    mask = MASK.astype(np.float32)
    mask[3] = 0  # an answer without weight
    rows = [x[b][mask[b] > 0] for b in range(3)]
    expected = {
        "token": np.concatenate(rows).mean(),
        "sequence": np.mean([r.mean() for r in rows]),
        "constant": sum(r.sum() for r in rows) / (B * R),
    }
    for mean, value in expected.items():
        weights, count = losses.token_weights(mask, mean)
        np.testing.assert_allclose(losses.masked_sum(x, weights) / count, value, rtol=1e-5)


def test_a_sequence_has_one_ratio():
    """GSPO by a loop, its clip and its gradient: -A·s/n at every token of what is not clipped."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, B, R)).astype(np.float32) * 0.1
    new[0] += 1.0  # far above the clip
    each = np.array([1.0, 1.0, -1.0, 1.0], np.float32)
    advantages, mask = np.repeat(each[:, None], R, 1), MASK.astype(np.float32)
    weights, count = losses.token_weights(mask, "sequence")

    def loss(new):
        total, _, _ = losses.ppo_policy_loss(new, old, advantages, weights, 0.2, 0.2, sequence=True)
        return total / count

    total, wanted = 0.0, np.zeros((B, R))
    for b in range(B):
        n = int(mask[b].sum())
        s = np.exp(np.mean((new[b] - old[b])[:n]))
        total -= min(s * each[b], np.clip(s, 0.8, 1.2) * each[b]) / B
        wanted[b, :n] = -each[b] * s / n / B
    wanted[0] = 0
    np.testing.assert_allclose(loss(new), total, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(new), wanted, atol=1e-6)
    poisoned = np.where(MASK, new, np.float32(1e30))
    np.testing.assert_array_equal(jax.grad(loss)(poisoned), jax.grad(loss)(new))


@pytest.fixture
def experience(monkeypatch):
    """`make_experience` without a critic, with a table in place of the networks."""
    lp = np.random.default_rng(1).normal(size=(2, B, R)).astype(np.float32)

    def table(config, logprobs, *rest):
        return jnp.asarray(logprobs), jnp.ones((B, R))

    monkeypatch.setattr(forward, "response_logprobs", table)
    roles = {"policy": lp[0], "reference": lp[1]}

    def experience(scores=SCORES, grpo=None, **options):
        return make(make_batch(), roles, options, scores=scores, jit=lambda f: f, grpo=grpo)

    return experience


def test_an_answer_s_reward_less_its_kl_is_the_advantage_of_its_tokens(experience):
    grpo = GRPOConfig(group_size=2, baseline="others", scale="none")
    arrays, _, metrics = experience(kl_coef=0.3, grpo=grpo)
    kl = np.sum((arrays["old_logprobs"] - arrays["ref_logprobs"]) * MASK, axis=1)
    rewards = SCORES - 0.3 * kl
    expected = rewards - rewards[[1, 0, 3, 2]]  # two answers a prompt
    np.testing.assert_allclose(arrays["advantages"], expected[:, None] * MASK, atol=1e-5)
    assert arrays.keys() >= {"policy_mask"} and not arrays.keys() & {"returns", "old_values"}
    assert metrics["equal_groups"] == 0
    _, _, metrics = experience(scores=np.array([1, 1, 0, 2], np.float32), grpo=grpo)
    assert metrics["equal_groups"] == 0.5


class FakeSampler(Sampler):
    """Answers are numbered by draw and row; scores come from a table [draw, row]. `events` are
    (`sample`, first row, policy) and (`verify`, first row)."""

    def __init__(self, ctx, scores):
        self.ctx, self.scores, self.prompts, self.events = ctx, scores, [], []
        self.weights, self.verifiers = {"length": 1.0}, {"length": None}

    def sample(self, policy, prompts, key, first_row, samples, int8_cache):
        self.prompts.append(np.asarray(prompts["tokens"]))
        self.events.append(("sample", int(first_row), policy))
        answer = first_row + jnp.arange(len(prompts["tokens"]) * samples)
        names = "tokens", "positions", "segment_ids", "response_mask", "sampler_logprobs"
        return dict.fromkeys(names, answer)

    def verify(self, batch, answers):
        numbers = np.asarray(batch["tokens"])
        self.events.append(("verify", int(numbers[0])))
        assert answers == [f"answer {i // 2}" for i in numbers % 120]
        scores = jnp.asarray(self.scores.reshape(-1)[numbers], jnp.float32)
        return Verified({"length": scores}, {})

    def check_scores(self, scores, batch, failures=None):
        pass


def source(scores, width=1, buckets=1, max_draws=1, **rl):
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    rl |= dict(rollout_batch=scores.shape[1], prompt_length=width, prompt_buckets=buckets)
    rl, _ = settings(**rl)
    # Example i has a prompt of 1 + i % width tokens, the last of them i.
    rows = {"tokens": np.repeat(np.arange(60)[:, None], width, axis=1), "example": np.arange(60)}
    rows["mask"] = np.arange(width) >= width - 1 - np.arange(60)[:, None] % width
    examples = [{"answer": f"answer {i}"} for i in range(60)]
    config = RunConfig(stage="grpo", rl=rl, grpo=GRPOConfig(group_size=2, max_draws=max_draws))
    ctx = SimpleNamespace(
        config=config,
        models={"policy": None},
        data=Data(rows, rows, [], Counter(), train_examples=examples),
        mesh=mesh,
        normalizer=None,
    )
    settings_ = config.grpo
    advantages_of = partial(advantages, settings_)
    sizes = settings_.group_size, settings_.max_draws
    of = rollout.RolloutSource(ctx, FakeSampler(ctx, scores), advantages_of, *sizes)
    of.prompts.index = lambda numbers: numbers % 60  # the order of the examples
    return of


def sample(source, s=None, policy=None, rollout=0):
    """(answers, scores, the first draw, the state after it) of a rollout."""
    s = (s or source.init()) | {"rollout": np.int32(rollout)}
    (batch, rewards), draw, changes = source._sample(policy, None, s)
    return np.asarray(batch["tokens"]), np.asarray(rewards["score"]), draw, s | changes


SCORE_TABLE = np.array([
    [1, 1, 0, 1, 2, 2, 0, 0],  # groups 0, 2 and 3 are equal
    [0, 0, 3, 4, 1, 1, 2, 2],  # only group 1 is not
    [5, 6, 7, 8, 1, 2, 3, 4],
])  # fmt: skip


def test_a_prompt_is_read_once_for_all_of_its_answers():
    of = source(SCORE_TABLE)
    answers, scores, _, s = sample(of)
    assert of.groups.samples == 2 and len(set(of.sampler.prompts[0][:, 0])) == 4
    assert s["drawn"] == 1
    np.testing.assert_array_equal(answers, np.arange(8))
    np.testing.assert_array_equal(scores, SCORE_TABLE[0])


def test_hosts_score_a_part_after_all_parts_have_been_started():
    """Two parts of two prompts: the answers and scores of one, and its order of events."""
    of = source(SCORE_TABLE, sample_batch=4)
    answers, scores, _, _ = sample(of)
    np.testing.assert_array_equal(answers, np.arange(8))
    np.testing.assert_array_equal(scores, SCORE_TABLE[0])
    started = [("sample", 0, None), ("sample", 4, None)]
    assert of.sampler.events == [*started, ("verify", 0), ("verify", 4)]


@pytest.mark.parametrize("ahead", [1, 2])
def test_rollouts_ahead_are_of_older_policies_and_are_saved(ahead):
    """Rollout n is of policy max(n - k, 0), by a source that begins anew at every rollout; its
    score is asked for after the next rollout has been started."""
    table, s = np.arange(64).reshape(8, 8), None
    for n in range(4):
        of = source(table, sample_batch=4, rollouts_ahead=ahead)
        s = jax.tree.map(jnp.asarray, jax.device_get(s)) if s else of.init()
        answers, scores, draw, s = sample(of, s, policy=n, rollout=n)
        np.testing.assert_array_equal(answers, 8 * n + np.arange(8))
        np.testing.assert_array_equal(scores, table[n])
        assert (draw.number, draw.rollout) == (n, max(n - ahead, 0))
        assert [e[0] for e in of.sampler.events][-1:] == ["verify"]
        policies = [e[2] for e in of.sampler.events if e[0] == "sample"]
        assert policies == [n] * (2 if n else 2 * (1 + ahead))
        assert s["ahead"]["count"] == ahead and s["drawn"] == n + 1 + ahead
    place = of.place(s | {"minibatch": 0})
    back, _ = of.past(s, place, 1)
    assert back["ahead"]["count"] == 0 and back["drawn"] == s["drawn"]
    assert sample(of, back, rollout=4)[2].number == s["drawn"]


def test_groups_are_replaced_ahead_too():
    """Groups 0, 2 and 3 of the first draw by those of the third, as the second is in flight."""
    of = source(np.repeat(SCORE_TABLE, 2, axis=0)[[0, 2, 4]], max_draws=2, rollouts_ahead=1)
    answers, _, draw, s = sample(of)
    np.testing.assert_array_equal(answers, [16, 17, 2, 3, 18, 19, 20, 21])
    assert (draw.number, s["drawn"], s["ahead"]["number"]) == (0, 3, [1])


def test_a_rollouts_prompts_are_as_wide_as_the_longest_needs():
    """Widths of 2, 4 and 6 columns; four prompts a draw."""
    of, every = (source(SCORE_TABLE, width=6, buckets=n) for n in (3, 1))
    widths = set()
    for number in range(3):
        of._start(None, number)
        every._start(None, number)
        got, whole = of.sampler.prompts[-1], every.sampler.prompts[-1]
        assert whole.shape[1] == 6
        longest = np.max(whole[:, -1] % 6) + 1
        assert got.shape[1] == longest + longest % 2
        np.testing.assert_array_equal(got, whole[:, -got.shape[1] :])
        widths.add(got.shape[1])
    assert len(widths) > 1


def test_groups_of_equal_scores_give_way_to_those_of_another_draw():
    answers, scores, _, s = sample(source(SCORE_TABLE, max_draws=5))
    assert s["drawn"] == 3
    np.testing.assert_array_equal(answers, [10, 11, 2, 3, 16, 17, 18, 19])
    np.testing.assert_array_equal(scores, [3, 4, 0, 1, 5, 6, 7, 8])


def test_draws_end_although_groups_are_equal():
    answers, _, _, s = sample(source(SCORE_TABLE, max_draws=2))
    assert s["drawn"] == 2
    np.testing.assert_array_equal(answers, [10, 11, 2, 3, 4, 5, 6, 7])


def test_what_is_repeated_within_an_answer():
    """4-grams: 5 of the first, two of which were there before; none of the second; all but one."""
    ids = np.array([[1, 2, 3, 4, 1, 2, 3, 4, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9], [7] * 9])
    mask = np.ones((3, 9)) * (np.arange(9) < np.array([8, 9, 9])[:, None])
    np.testing.assert_allclose(hacking.repetition(ids, mask), [1 / 5, 0, 5 / 6], rtol=1e-6)
    np.testing.assert_array_equal(hacking.repetition(ids, 0 * mask), 0)


def test_a_rollout_of_equal_scores_is_said():
    assert not hacking.no_lesson({"score": 0.5, "score_std": 0.1})
    assert "all answers" in hacking.no_lesson({"score": 0.7, "score_std": 6e-8})["scores"]
    groups = {"score": 0.5, "score_std": 0.1}
    assert not hacking.no_lesson(groups | {"equal_groups": 0.9})
    assert "each prompt" in hacking.no_lesson(groups | {"equal_groups": 1.0})["scores"]


def test_signs_of_hacking():
    first = {"length": 10.0, "repetition": 0.05, "entropy": 2.0}
    assert not hacking.signs(first, first)
    assert not hacking.signs(first, {"length": 19.0, "repetition": 0.2, "entropy": 0.6})
    warnings = hacking.signs(first, {"length": 21.0, "repetition": 0.3, "entropy": 0.4})
    assert warnings.keys() == first.keys() and "2.1 times as long" in warnings["length"]
    assert hacking.signs(first, first | {"length": 4.0}).keys() == {"length"}
