"""Common errors in PPO, on a live run of tiny models: docs/ppo_checklist.md says which test
watches which point.

Axes: B episodes, P prompt length (left padded), R response length, V vocabulary.
"""

import re
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo
from flax.traverse_util import flatten_dict
from tiny_ppo import EPOCHS, MINIBATCH, PER_ROLLOUT, ROWS, P, R

from benchmarks.random_models import write_random
from data.text.builtin import EOS, PAD
from model import sharding
from model.heads import reward_model
from model.transformer import Transformer
from ranges import ConfigError
from train import vocabulary
from train.assembly.run import init_state, setup
from train.checkpoints import loading, networks
from train.config import run as configs
from train.objectives.ppo import PPOConfig
from train.rl import advantages as adv
from train.rl import score_scale
from train.rl.sampler import Sampler
from train.step import make_train_step

ROLLOUTS, WARMUP, TEMPERATURE = 3, 1, 0.7


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ppo")
    tiny_ppo.write_origins(directory)
    return directory


ONE, EIGHT = dict(data=1), dict(data=2, fsdp=2, tensor=2)


def begin(directory, change=None, mesh=ONE, **options):
    """(run, its state at step 0) of a recipe that `change` alters."""
    config = tiny_ppo.recipe("ppo", directory, ROLLOUTS, **options)
    config.ppo.critic_warmup = WARMUP
    config.rl.kl_target, config.rl.kl_horizon = 0.5, 100
    config.rl.pretrain_coef = 0.25
    if change:
        change(config)
    devices = jax.devices()[: np.prod([*mesh.values()])]
    mesh = sharding.make_mesh(sharding.MeshConfig(**mesh), devices)
    with jax.set_mesh(mesh):
        run = setup(configs.build(config), directory / "run", mesh, None, tiny_ppo.OPEN_DATA)
        return run, init_state(run)


class Step(NamedTuple):
    """A step: its batch and metrics, those of its rollout (or {}), and the state after it."""

    batch: dict
    metrics: dict
    rollout: dict
    trainable: Any
    source: dict


@pytest.fixture(scope="module")
def begun(directory):
    return begin(directory)


@pytest.fixture(scope="module")
def steps(begun):
    """All steps of a run of three rollouts, in the first of which the critic alone learns."""
    run, state = begun
    step_fn, source, records = jax.jit(make_train_step(run.stage, run.tx, 1)), state.source, []
    with jax.set_mesh(run.ctx.mesh):
        for step in range(ROLLOUTS * PER_ROLLOUT):
            batch, source, rollout = run.stage.source.next(state, run.frozen, source, step)
            state, metrics = step_fn(state._replace(source=()), run.frozen, batch)
            assert state.step == step + 1
            records.append(
                Step(*jax.device_get((batch, metrics)), rollout,
                     *jax.device_get((state.trainable, source)))
            )  # fmt: skip
    assert run.stage.source.progress(source)["pretrain_epochs"] == len(records) * (
        run.ctx.config.pretrain_data.batch_size / len(run.ctx.pretrain_data.train["tokens"])
    )
    return records


@pytest.fixture(scope="module")
def rollouts(steps):
    """The first step of each rollout."""
    return [s for s in steps if s.rollout]


# Point 4.


def test_an_answer_is_valid_through_its_first_eos_and_padding_may_be_sampled(rollouts):
    padding = 0
    for step in rollouts:
        experience = step.source["experience"]
        answers, mask = experience["tokens"][:, P:], experience["response_mask"]
        for ids, valid in zip(answers, mask, strict=True):
            eos_columns = np.flatnonzero(ids == EOS)
            length = eos_columns[0] + 1 if len(eos_columns) else R
            np.testing.assert_array_equal(valid, np.arange(R) < length)
            padding += np.sum(ids[:length] == PAD)
        np.testing.assert_array_equal(experience["segment_ids"][:, P:], mask)
        ended = np.mean([EOS in ids for ids in answers])
        np.testing.assert_allclose(step.rollout["rollout/eos_rate"], ended)
        assert 0 < ended < 1
    assert padding > 0  # else the test would say nothing


# Point 7.


def test_the_reward_model_reads_the_answer_cut_after_its_end(begun, rollouts):
    """One row at a time, without padding on either side, its last number; and whatever follows the
    end changes nothing."""
    run, _ = begun
    experience = rollouts[0].source["experience"]
    names = ("tokens", "positions", "segment_ids", "response_mask")
    batch = {name: experience[name] for name in names}
    assert np.ptp(batch["response_mask"].sum(1)) > 0
    sampler = Sampler(run.ctx)
    with jax.set_mesh(run.ctx.mesh):
        scores = np.asarray(sampler.score(run.frozen, batch))
        other = np.where(batch["segment_ids"] == 0, 9, batch["tokens"]).astype(np.int32)
        np.testing.assert_array_equal(sampler.score(run.frozen, batch | {"tokens": other}), scores)
    apply = jax.jit(reward_model(run.ctx.models["reward"]).apply)
    for b in range(6):
        row = batch["tokens"][b][batch["segment_ids"][b] > 0]
        wide = np.concatenate([row, np.full(P + R - len(row), 3)])[None]  # causal: not seen
        values = apply({"params": run.frozen["reward"]}, wide.astype(np.int32))
        np.testing.assert_allclose(scores[b], values[0, len(row) - 1], atol=1e-5)


# Point 11.


def test_what_is_made_of_a_rollout_is_the_same_on_one_device_and_on_eight(directory, begun, steps):
    experience = steps[0].source["experience"]
    names = ("tokens", "positions", "segment_ids", "response_mask")
    batch = {name: experience[name] for name in names}
    batch["sampler_logprobs"] = experience["old_logprobs"]
    outputs = []
    for run, state in (begun, begin(directory, mesh=EIGHT)):
        mesh, source = run.ctx.mesh, run.stage.source
        with jax.set_mesh(mesh):
            rows = sharding.put_batch(batch, mesh)
            scores = source.sampler.score(run.frozen, rows)
            scalars = {k: state.source[k] for k in ("kl_coef", "gain", "bias", "rollout")}
            roles = {**state.trainable, "reference": run.frozen["reference"]}
            out = source.make_experience(roles, rows, scores, scalars, np.bool_(False))
            outputs.append(jax.device_get(out))
    one_device, eight_devices = outputs
    assert one_device[0].keys() == experience.keys()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5),
        one_device,
        eight_devices,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5),
        experience,
        eight_devices[0],
    )
    advantages = eight_devices[0]["advantages"][batch["response_mask"] > 0]
    np.testing.assert_allclose([advantages.mean(), advantages.std(ddof=1)], [0, 1], atol=1e-4)


# Points 13 and 19: the terms of the loss.


def test_the_terms_of_the_loss_have_their_coefficients(begun, steps):
    run, state = begun
    batch, source = steps[-1].batch, run.stage.source
    text = jax.device_get(source._text.batch(0))
    batch = batch | {"text": text}

    @jax.jit
    def terms(trainable, frozen, batch):
        params = trainable["policy"]
        hidden, _ = Transformer(run.ctx.models["policy"]).apply(
            {"params": params}, text["tokens"], text["positions"], text["segment_ids"],
            method=Transformer.hidden,
        )  # fmt: skip
        nats = vocabulary.next_token_loss(run.ctx.models["policy"], params, hidden, text, 1e-4, 0)
        return run.stage.loss(trainable, frozen, batch), nats[0], run.stage.weights(batch)

    (sums, metrics), nats, weights = terms(state.trainable, run.frozen, batch)
    assert PPOConfig().value_coef == 0.1
    np.testing.assert_allclose(sums["value"], 0.1 * metrics["value_loss"][0], rtol=1e-6)
    np.testing.assert_allclose(sums["text"], 0.25 * nats, rtol=1e-5)
    assert sums.keys() == weights.keys() == {"policy", "value", "text"}
    assert weights["text"] == text["loss_mask"][:, 1:].sum() > 0
    assert weights["policy"] == weights["value"] == batch["response_mask"].sum()


# Point 15.


def test_the_first_minibatch_of_a_rollout_is_on_policy(steps):
    for number in range(WARMUP, ROLLOUTS):
        first, *others = steps[number * PER_ROLLOUT : (number + 1) * PER_ROLLOUT]
        np.testing.assert_allclose(first.metrics["ratio"], 1, atol=1e-6)
        assert first.metrics["clip_fraction"] == 0 and first.metrics["approx_kl"] < 1e-10
        assert all(abs(s.metrics["approx_kl"]) > 1e-6 for s in others)


def test_every_epoch_takes_every_episode_once_in_another_order(steps):
    def rows(x):
        return [(*a, *b) for a, b in zip(x["tokens"].tolist(), x["old_logprobs"].tolist())]

    assert len(steps) == ROLLOUTS * EPOCHS * ROWS // MINIBATCH
    orders = []
    for start in range(0, len(steps), ROWS // MINIBATCH):
        epoch = steps[start : start + ROWS // MINIBATCH]
        taken = [row for step in epoch for row in rows(step.batch)]
        whole = rows(epoch[0].source["experience"])
        assert sorted(taken) == sorted(whole)
        orders.append(tuple(whole.index(row) for row in taken))
    assert len(set(orders)) == len(orders) == ROLLOUTS * EPOCHS


# Point 16.


def test_nothing_in_ppo_is_random_but_the_sampler(begun, steps):
    """No dropout: neither the loss nor what is computed of a rollout draws a number."""
    run, state = begun
    source, batch = run.stage.source, steps[0].batch
    random = re.compile(r"random_|threefry|rng_")
    loss = jax.make_jaxpr(run.stage.loss)(state.trainable, run.frozen, batch)
    assert not random.search(str(loss))
    kept = ("tokens", "positions", "segment_ids", "response_mask", "old_logprobs")
    rows = {name: steps[0].source["experience"][name] for name in kept}
    rows["sampler_logprobs"] = rows.pop("old_logprobs")
    scalars = {k: steps[0].source[k] for k in ("kl_coef", "gain", "bias", "rollout")}
    roles = {**state.trainable, "reference": run.frozen["reference"]}
    outputs = jax.make_jaxpr(source.make_experience)(roles, rows, np.zeros(ROWS), scalars, True)
    assert not random.search(str(outputs))
    assert random.search(str(jax.make_jaxpr(source._take)(rows, 0, 0)))  # would be found


# Point 18.


def test_the_kl_coefficient_adapts_and_is_in_the_state(steps, rollouts):
    coef = 0.05
    for step in rollouts:
        np.testing.assert_allclose(step.rollout["rollout/kl_coef"], coef, rtol=1e-6)
        coef = adv.adaptive_kl(coef, step.rollout["rollout/kl"], 0.5, 100, ROWS)
        np.testing.assert_allclose(step.source["kl_coef"], coef, rtol=1e-5)
    assert abs(coef - 0.05) > 1e-3


# Point 19.


def leaves_equal(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    return [bool(np.all(a[path] == b[path])) for path in a]


@pytest.mark.parametrize(
    "roles,origin",
    [
        (("policy", "reward"), "reward"),
        (("policy",), "policy"),
        (("policy", "reward", "value"), "value"),
    ],
)
def test_a_critic_starts_from_the_reward_model_unless_it_has_weights_of_its_own(
    directory, roles, origin
):
    def change(config):
        config.rl.pretrain_coef = 0.0
        config.rl.reward_function = "stage_fixtures:brevity"

    run, state = begin(directory, change, roles=roles)
    value, model = jax.device_get(state.trainable["value"]), run.ctx.models["value"]
    mesh = run.ctx.mesh
    abstract = networks.abstract_params(origin, model, mesh)
    trained = loading.load_params(directory / origin, origin, abstract)
    assert all(leaves_equal(value["backbone"], trained.get("backbone", trained)
                            if origin != "policy" else
                            {k: trained[k] for k in value["backbone"]}))  # fmt: skip
    if origin == "value":
        np.testing.assert_array_equal(value["head"], trained["head"])
    else:
        assert not value["head"].any()


def test_the_critic_alone_learns_while_it_warms_up(begun, steps):
    first = jax.device_get(begun[1].trainable)
    for step in steps[: WARMUP * PER_ROLLOUT]:
        assert all(leaves_equal(step.trainable["policy"], first["policy"]))
    last = steps[WARMUP * PER_ROLLOUT - 1].trainable
    assert not any(leaves_equal(last["value"], first["value"]))
    assert not any(leaves_equal(steps[-1].trainable["policy"], first["policy"]))


def test_policy_and_critic_have_learning_rates_of_their_own(begun):
    """Adam's first update is the rate, whatever the gradient."""
    run, state = begun
    grads = jax.tree.map(jnp.ones_like, state.trainable)
    updates, _ = jax.jit(run.tx.update)(grads, state.opt_state, state.trainable)
    for role, rate in (("policy", 1e-2), ("value", 3e-2)):
        for update in jax.tree.leaves(updates[role]):
            np.testing.assert_allclose(update, -rate, rtol=1e-4)


# Point 20.


def test_scores_of_the_first_rollout_have_mean_0_and_std_1_as_rewards(rollouts):
    first = rollouts[0].rollout
    gain, bias = rollouts[0].source["gain"], rollouts[0].source["bias"]
    np.testing.assert_allclose(first["rollout/score"] * gain + bias, 0, atol=1e-5)
    np.testing.assert_allclose(first["rollout/score_std"] * gain, 1, rtol=1e-5)
    np.testing.assert_allclose(first["rollout/kl"], 0, atol=1e-5)  # these are the reference's
    for step in rollouts[1:]:
        assert (step.source["gain"], step.source["bias"]) == (gain, bias)
        shifted = step.rollout["rollout/score"] * gain + bias
        np.testing.assert_allclose(step.rollout["rollout/score_normalized"], shifted, rtol=1e-4)


def test_a_scale_that_is_kept_with_the_reward_model_is_used(directory, tmp_path):
    shutil.copytree(directory / "reward", tmp_path / "reward")

    def change(config):
        config.init_from.reward = str(tmp_path / "reward")
        config.rl.pretrain_coef = 0.0

    config = tiny_ppo.recipe("ppo", directory)
    config.mesh.data = 8
    scale = score_scale.run(config, tmp_path / "reward", 60, tiny_ppo.OPEN_DATA)
    assert scale["answers"] == 60
    run, state = begin(directory, change)
    gain, bias = run.ctx.normalizer
    np.testing.assert_allclose(
        [scale["mean"] * gain + bias, scale["std"] * gain], [0, 1], atol=1e-6
    )
    np.testing.assert_allclose(
        (state.source["gain"], state.source["bias"]), (gain, bias), rtol=1e-6
    )
    shutil.rmtree(tmp_path / "reward" / "checkpoints")
    write_random(tmp_path / "reward", "reward", tiny_ppo.MODEL, tiny_ppo.TOKENIZER, seed=5)
    with pytest.raises(ConfigError, match=r"normalizer\.json was measured with other"):
        begin(directory, change)


# Point 21.


def test_every_rollout_logs_how_far_sampler_and_trainer_are_apart(rollouts):
    assert len(rollouts) == ROLLOUTS
    for step in rollouts:
        gap = step.rollout["rollout/logprob_gap_max"]
        assert 0 < step.rollout["rollout/logprob_gap_mean"] <= gap < 1e-4


def test_what_the_issue_asks_to_be_logged_is(steps, rollouts):
    rollout = {"kl", "kl_per_token", "kl_coef", "score", "score_std", "reward", "entropy",
               "explained_variance", "return_mean", "return_std", "length", "eos_rate",
               "logprob_gap_max", "logprob_gap_mean", "tokens_per_second"}  # fmt: skip
    assert {f"rollout/{name}" for name in rollout} <= rollouts[0].rollout.keys()
    update = {"clip_fraction", "approx_kl", "ratio", "ratio_max", "entropy", "grad_norm"}
    assert update <= steps[0].metrics.keys()
    late = steps[-1].metrics
    assert late["ratio_max"] > max(1, late["ratio"])
