"""Answers whose reward is no finite number: the message, the checkpoint, and what is left out."""

import asyncio
import contextlib
import json
import math
import re
import time
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo
from episodes import SCORES, B, R, make, make_batch
from local_runs import records

from data.text.builtin import EOS
from data.text.tokenizer import train
from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints.checkpointer import Checkpointer
from train.config import run as configs
from train.objectives.grpo import GRPOConfig
from train.rl import advantages as adv
from train.rl import forward, rewards
from train.rl.rewards import RewardError
from train.rl.sampler import Sampler
from train.runtime import processes


class Odd:
    def __repr__(self):
        raise RuntimeError("no text")


class Lazy:
    shape = ()

    def item(self):
        raise RuntimeError("no value")


@pytest.mark.parametrize(
    "value,number",
    [
        (1, 1.0), (-0.5, -0.5), (True, 1.0), (np.bool_(False), 0.0), (np.float32(0.5), 0.5),
        (np.int64(3), 3.0), (np.array(2.5), 2.5), (jnp.float32(0.25), 0.25),
        (jnp.bfloat16(0.5), 0.5), (Decimal("0.5"), 0.5), (Fraction(1, 4), 0.25), (-1e15, -1e15),
    ],
)  # fmt: skip
def test_what_is_a_number(value, number):
    assert rewards.call(lambda episode: value, None) == number


@pytest.mark.parametrize(
    "value,text",
    [
        (math.nan, "gave nan"), (math.inf, "gave inf"), (-math.inf, "gave -inf"),
        (np.float32(np.nan), "nan"), (None, "gave None"), ("0.5", "gave '0.5'"), (b"1", "bytes"),
        ([1.0], r"gave \[1.0\]"), ((1.0,), "tuple"), ({}, "dict"), (np.ones(3), "ndarray"),
        (np.ones(1), "ndarray"), (np.array([]), "ndarray"), (jnp.ones(2), "gave"), (1j, "complex"),
        (np.complex64(1), "complex64"), (10**400, "int"), (10**5000, "<int>"), (1e39, r"1e\+39"),
        (-1.5e15, r"gave -1500000000000000\.0 \(float\)"), (np.float32(3e38), "gave"),
        (Decimal("NaN"), "NaN"), (Decimal("sNaN"), "sNaN"), (np.datetime64("2020"), "datetime64"),
        (np.ma.masked, "masked"), (Odd(), "Odd"), (Lazy(), "gave <"), (np.array(None), "ndarray"),
        (np.array("1"), "ndarray"), (len, "len"), ("x" * 10_000, "gave 'x{80}'…"),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_what_is_none(value, text):
    failure = rewards.call(lambda episode: value, None)
    assert isinstance(failure, rewards.Failure), failure
    assert re.search(text, failure.text), failure.text
    assert len(failure.text) < 200 and "\n" not in failure.text


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [ValueError("a\nb"), SystemExit(0), SystemExit(), GeneratorExit(), asyncio.CancelledError(),
     StopIteration(), KeyError("x"), RecursionError(), MemoryError(), AssertionError(), NoText()],
    ids=repr,
)  # fmt: skip
def test_what_is_raised(error):
    def function(episode):
        raise error

    failure = rewards.call(function, None)
    assert failure.error is error and type(error).__name__ in failure.text
    assert "\n" not in failure.text


def test_what_does_not_return():
    def stubborn(episode):
        while True:
            with contextlib.suppress(Exception):  # as code that retries
                time.sleep(10)

    failure = rewards.call(stubborn, None, 0.05)
    assert failure.text == "did not return within rewards.timeout=0.05 s"
    assert rewards.call(lambda episode: 1.0, None, 0.05) == 1.0


def test_ctrl_c_is_the_user_s():
    def function(episode):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewards.call(function, None)


def test_a_module_that_cannot_be_imported_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "constant.py").write_text("score = 1\n")
    for name in ("leaving:score", "constant:score", "constant:other", "nowhere:f", "constant"):
        with pytest.raises(ConfigError, match=r"rl\.reward_function='"):
            rewards.load_function(name)


# Of a batch.

TABLE = [0.0, 1.0, math.nan, 3.0, 4.0, 5.0, 6.0, 7.0]


def score(episode):
    return TABLE[int(episode.response)]


def sampler_of(devices=1, **settings):
    tokenizer = train("byte", [], 0)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])
    rl = configs.RLConfig(reward_function="mine:score")
    ctx = SimpleNamespace(
        config=configs.RunConfig(rl=rl, rewards=configs.RewardsConfig(**settings)),
        mesh=mesh, tokenizer=tokenizer, models={},
        data=SimpleNamespace(heldout_examples=[], train_examples=[]),
    )  # fmt: skip
    responses = [tokenizer.encode(str(i)) for i in range(8)]
    prompt = tokenizer.encode("?")[0]
    tokens = np.array([[prompt, *ids, EOS, 0] for ids in responses], np.int32)
    batch = {"tokens": tokens, "segment_ids": np.array([[1, 1, 1, 0]] * 8),
             "response_mask": np.array([[1.0, 1.0, 0.0]] * 8)}  # fmt: skip
    return Sampler(ctx), sharding.put_batch(batch, mesh)


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    """The functions that are imported as `mine:FUNCTION`."""
    load = rewards.load_function
    own = {"mine:score": score, "mine:fragile": fragile, "mine:constant": constant}
    monkeypatch.setattr(rewards, "load_function", lambda name: own.get(name) or load(name))


@pytest.mark.parametrize("devices", [1, 8])
def test_the_message_names_function_prompt_and_value(devices):
    sampler, batch = sampler_of(devices)
    with pytest.raises(RewardError) as e:
        sampler.rewards({}, batch, [""] * 8)
    assert "rl.reward_function=mine:score gave nan (float)" in str(e.value)
    assert "the answer '2' to the prompt '?'" in str(e.value)
    assert "--config.rewards.on_error=skip" in str(e.value)


@pytest.mark.parametrize("devices", [1, 8])
def test_few_are_left_out_and_more_are_not(devices, capsys):
    sampler, batch = sampler_of(devices, on_error="skip", max_errors=1 / 8, length=1e-6,
                                target_length=2)  # fmt: skip
    rewards_of_batch = sampler.rewards({}, batch, [""] * 8)
    assert np.flatnonzero(~np.isfinite(rewards_of_batch["score"])).tolist() == [2]
    np.testing.assert_allclose(
        np.delete(rewards_of_batch["score"], 2), np.delete(TABLE, 2), atol=1e-5
    )
    sampler.rewards({}, batch, [""] * 8)
    assert capsys.readouterr().out.count("skipped, with others like it: rl.reward_function=") == 1
    sampler, batch = sampler_of(devices, on_error="skip", max_errors=0.1)
    with pytest.raises(RewardError, match=r"1 of 8 answers have no reward, .*max_errors=0\.1"):
        sampler.rewards({}, batch, [""] * 8)


def test_an_answer_that_takes_too_long_has_no_reward():
    sampler, batch = sampler_of(on_error="skip", max_errors=1 / 8, timeout=0.05)
    sampler.verifiers = {"function": lambda e: time.sleep(10 * (e.response == "3")) or 1.0}
    scores = sampler.rewards({}, batch, [""] * 8)["score"]
    assert np.flatnonzero(~np.isfinite(scores)).tolist() == [3]


def test_a_service_that_fails_is_no_lost_process(monkeypatch):
    monkeypatch.setattr(processes, "joined", lambda: True)
    lost = RuntimeError("UNAVAILABLE: Connection reset")
    assert processes.is_lost_peer(lost)
    error = RewardError("raised RuntimeError ('UNAVAILABLE: Connection reset')")
    error.__cause__ = lost
    assert not processes.is_lost_peer(error)


def test_a_sum_that_overflows_is_no_reward():
    sampler, batch = sampler_of(function=1e9)
    sampler.verifiers = {"function": lambda episode: 1e7}
    with pytest.raises(RewardError, match="the weighted sum of the rewards gave inf for the ans"):
        sampler.rewards({}, batch, [""] * 8)


def test_the_settings_have_ranges():
    for settings in (dict(on_error="ignore"), dict(max_errors=0.5), dict(max_errors=math.nan)):
        with pytest.raises(ConfigError, match=f"rewards.{next(iter(settings))}="):
            configs.RewardsConfig(**settings)


# Of an experience.


@pytest.fixture
def experience(monkeypatch):
    """`make_experience` with tables for networks, of some of the four episodes."""
    lp = np.random.default_rng(1).normal(size=(3, B, R)).astype(np.float32)
    monkeypatch.setattr(
        forward, "response_logprobs", lambda c, x, *rest: (jnp.asarray(x), jnp.ones(x.shape))
    )
    monkeypatch.setattr(forward, "response_values", lambda c, x, *rest: jnp.asarray(x))

    def experience(scores, rows=slice(None), critic=True, **options):
        options |= dict(whiten_advantages=True, normalize_scores=critic)
        batch = {k: v[rows] for k, v in make_batch().items()}
        roles = {"policy": lp[0][rows], "reference": lp[1][rows]}
        if critic:
            roles["value"] = lp[2][rows]
        return make(batch, roles, options, scores=scores, jit=lambda f: f, batch_size=64,
                    grpo=GRPOConfig(group_size=2))  # fmt: skip

    return experience


OTHERS = np.array([0, 2, 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_episode_without_a_reward_is_as_if_it_were_not_there(experience, bad):
    options = dict(kl_target=0.5, kl_horizon=100, missing_eos="penalty")
    scores = np.where(np.arange(B) == 1, np.float32(bad), SCORES)
    arrays, s, metrics = experience(scores, **options)
    wanted, s_wanted, metrics_wanted = experience(SCORES[OTHERS], OTHERS, **options)
    assert metrics.pop("reward_errors") == 1 and metrics_wanted.pop("reward_errors") == 0
    for got, want in ((s, s_wanted), (metrics, metrics_wanted)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
    for name in ("advantages", "returns", "response_mask", "policy_mask"):
        np.testing.assert_allclose(arrays[name][OTHERS], wanted[name], atol=1e-5, err_msg=name)
    assert not any(arrays[n][1].any() for n in ("advantages", "response_mask", "policy_mask"))
    assert all(np.all(np.isfinite(x)) for x in arrays.values())


def test_a_group_s_baseline_is_of_those_with_a_reward():
    scores = jnp.array([1.0, 2.0, np.nan, 6.0, np.nan, 5.0, np.nan, np.nan])
    valid = jnp.isfinite(scores)
    got = adv.group_advantages(scores, 4, "mean", "none", valid)
    np.testing.assert_allclose(got, [-2, -1, 0, 3, 0, 0, 0, 0])
    got = adv.group_advantages(scores, 4, "others", "none", valid)
    np.testing.assert_allclose(got, [-3, -1.5, 0, 4.5, 0, 0, 0, 0])
    got = adv.group_advantages(scores, 4, "mean", "std", valid)
    np.testing.assert_allclose(got[:4], np.array([-2, -1, 0, 3]) / np.sqrt(7), rtol=1e-5)


# A whole run.

CALLS = []


def fragile(episode):
    """Raises in the second rollout."""
    CALLS.append(1)
    if len(CALLS) == tiny_ppo.ROWS + 3:
        raise SystemExit(0)
    return float(len(episode.response_ids) % 3)


@pytest.mark.slow
def test_a_run_whose_reward_fails_is_saved_and_goes_on(tmp_path):
    tiny_ppo.write_origins(tmp_path)
    config = tiny_ppo.recipe("grpo", tmp_path, roles=("policy",))
    config.rl.reward_function = "mine:fragile"
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    CALLS.clear()
    with pytest.raises(
        RewardError, match=r"raised SystemExit \('0'\) for[^\n]*\n.*saved at step 4"
    ):
        loop.run(config, tmp_path / "run", one, open_data=tiny_ppo.OPEN_DATA)
    assert Checkpointer(tmp_path / "run", 1).latest() == 4
    assert records(tmp_path / "run")[-1]["step"] == 4
    CALLS[:] = [1] * tiny_ppo.ROWS
    config.rewards.on_error = "skip"  # this may change
    loop.run(config, tmp_path / "run", one, open_data=tiny_ppo.OPEN_DATA)
    lines = records(tmp_path / "run")
    assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, 9))
    errors = [r["rollout/reward_errors"] for r in lines if "rollout/reward_errors" in r]
    assert errors == [0, 1]
    assert json.dumps(lines, allow_nan=False)


def constant(episode):
    return 0.7


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_run_of_equal_rewards_is_no_success(stage, tmp_path):
    """It trains to its end, is saved, and says so again when it is started again."""
    roles = ("policy",) if stage == "grpo" else ("policy", "value")
    tiny_ppo.write_origins(tmp_path)
    config = tiny_ppo.recipe(stage, tmp_path, roles=roles)
    config.rl.reward_function = "mine:constant"
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    for _ in range(2):
        with pytest.raises(RewardError, match=r"in each of 2 rollouts .* nothing to learn"):
            loop.run(config, tmp_path / "run", one, open_data=tiny_ppo.OPEN_DATA)
    assert Checkpointer(tmp_path / "run", 1).latest() == config.steps
