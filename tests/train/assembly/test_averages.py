"""Moving averages of weights: kept beside them, saved, evaluated, and read by name."""

import json

import jax
import numpy as np
import pytest
from stage_fixtures import recipe, sharing, write_files

from model import sharding
from ranges import ConfigError
from train import inspect, loop
from train.assembly import averages
from train.checkpoints import loading, saved_models
from train.config import saved
from train.interop import averaging
from train.runtime.records import read_metrics

HOOKS = sharing()


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages")
    write_files(folder)
    return folder


def settings(folder, **changes):
    config = recipe("pretrain", folder)
    config.model.num_layers = 1
    config.data.heldout_limit = 16
    config.evaluate.at_start = False
    config.update(steps=4, log_every=1)
    config.checkpoint.update(every=1, keep=9)
    config.optimizer.ema = 0.6
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def plain(folder, mesh):
    config = settings(folder)
    config.optimizer.ema = 0.0
    loop.run(config, folder / "plain", mesh, hooks=HOOKS)
    return folder / "plain"


@pytest.fixture(scope="module")
def averaged(folder, mesh):
    loop.run(settings(folder), folder / "averaged", mesh, hooks=HOOKS)
    return folder / "averaged"


def weights(name):
    return jax.device_get(loading.load(name)[1])


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def records(workdir):
    def losses(record):
        return {k: record[k] for k in ("step", "loss", "grad_norm") if k in record}

    return [losses(r) for kind in ("train", "eval") for r in read_metrics(workdir, kind)]


def test_averages_are_those_of_numpy():
    weights = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    update, expected = jax.jit(averages.update), np.float64(weights[0])
    ema, rates = {"policy": {"w": weights[0]}}, {"policy": np.float32(1 - 0.7)}
    for step in range(1, 30):
        ema = update(ema, {"policy": {"w": weights[step]}}, rates, np.int32(step))
        decay = min(0.7, step / (step + 9))
        expected = decay * expected + (1 - decay) * weights[step]
    np.testing.assert_allclose(ema["policy"]["w"], expected, rtol=1e-5)


def test_a_run_keeps_averages_and_takes_the_same_steps(plain, averaged):
    assert records(averaged) == records(plain)
    assert_same(weights(averaged), weights(plain))
    items = {p.name for p in (plain / "checkpoints/4").iterdir() if p.is_dir()}
    kept = {p.name for p in (averaged / "checkpoints/4").iterdir() if p.is_dir()}
    assert kept - items == {"policy_ema"} and "policy" in items
    average = weights(f"{averaged}@1@ema")
    for step in (2, 3, 4):
        decay = min(0.6, step / (step + 9))
        average = jax.tree.map(
            lambda a, w, d=decay: d * np.float64(a) + (1 - d) * w, average,
            weights(f"{averaged}@{step}"),
        )  # fmt: skip
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            weights(f"{averaged}@{step}@ema"), average,
        )  # fmt: skip


def test_a_run_that_starts_from_averages_has_the_loss_that_was_evaluated(
    averaged, folder, mesh, tmp_path
):
    evaluated = read_metrics(averaged, "eval")[-1]
    assert evaluated["ema/loss"] != evaluated["loss"]
    config = settings(folder, steps=1)
    config.evaluate.at_start = True
    config.init_from.policy = f"{averaged}@4@ema"
    loop.run(config, tmp_path / "next", mesh)
    assert read_metrics(tmp_path / "next", "eval")[0]["loss"] == evaluated["ema/loss"]
    config.init_from.policy = f"{averaged}@9"
    with pytest.raises(ConfigError, match=f"no checkpoint of step 9; the nearest is {averaged}@4"):
        loop.run(config, tmp_path / "none", mesh)
    assert not (tmp_path / "none/metrics.jsonl").exists()


@pytest.mark.slow
def test_a_resumed_run_has_the_averages_of_the_uninterrupted_one(averaged, folder, mesh, tmp_path):
    loop.run(settings(folder, steps=2), tmp_path / "run", mesh)
    loop.run(settings(folder), tmp_path / "run", mesh, allow_change=("steps",))
    assert_same(weights(f"{tmp_path}/run@4@ema"), weights(f"{averaged}@ema"))
    config = settings(folder)
    config.optimizer.ema = 0.0
    with pytest.raises(ConfigError, match=r"optimizer.ema: 0.6 -> 0.0 \(refused"):
        loop.run(config, tmp_path / "run", mesh)


@pytest.mark.slow
def test_a_fork_begins_its_averages_or_leaves_them(plain, averaged, mesh, tmp_path, capsys):
    config = saved.recipe_of(str(plain))
    config.optimizer.ema = 0.6
    loop.run(config, tmp_path / "on", mesh, fork=f"{plain}@3")
    assert "0.0 -> 0.6; the averages begin with the weights of step 3" in capsys.readouterr().out
    assert_same(weights(f"{tmp_path}/on@3@ema"), weights(f"{plain}@3"))
    assert_same(weights(f"{tmp_path}/on"), weights(plain))
    config.optimizer.ema = 0.0
    loop.run(config, tmp_path / "off", mesh, fork=f"{averaged}@3")
    assert "0.6 -> 0.0; the averages of the weights are left" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="hold no averages"):
        weights(f"{tmp_path}/off@ema")
    with pytest.raises(ConfigError, match="a fork takes everything"):
        loop.run(config, tmp_path / "no", mesh, fork=f"{averaged}@3@ema")


@pytest.mark.slow
def test_averages_of_adapters_are_merged_with_the_base_that_a_step_is(
    averaged, folder, mesh, tmp_path
):
    """The base is step 2 of a run, and stays it."""
    config = settings(folder, steps=2)
    config.init_from.policy, config.lora.rank = f"{averaged}@2", 2
    loop.run(config, tmp_path / "run", mesh)
    origin = json.loads((tmp_path / "run/parts.json").read_text())["policy"]["origin"]
    assert origin["from"] == f"{averaged}@2"
    part, _ = saved_models.read_parts(tmp_path / "run", "policy")
    name = f"{tmp_path}/run@ema"
    opened = inspect.open(name)
    assert opened.name == f"{tmp_path}/run@2@ema"
    assert_same(
        np.asarray(opened.params["layers"]["query"][0]), weights(name)["layers"]["query"][0]
    )
    assert not np.array_equal(
        weights(name)["layers"]["query"], weights(tmp_path / "run")["layers"]["query"]
    )
    averaging.average([name, name], tmp_path / "soup")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        weights(tmp_path / "soup"), weights(name),
    )  # fmt: skip
    base = weights(f"{averaged}@2")
    assert_same(weights(name)["embedding"], base["embedding"])


def test_names_of_evaluations_of_averages_are_kept_free(folder, mesh, tmp_path):
    config = settings(folder, evals={"ema_wiki": {"type": "perplexity"}})
    with pytest.raises(ConfigError, match="names that begin so"):
        loop.run(config, tmp_path / "run", mesh)
