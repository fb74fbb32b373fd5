"""Stages that train with products in 8 bits (model/layers/low_precision.py)."""

import json
import shutil

import jax
import numpy as np
import pytest
from stage_steps import STAGES, five_steps, make_mesh, stage_recipe

from ranges import ConfigError
from train import loop
from train.assembly import inputs
from train.checkpoints import saved_models
from train.config import run as configs
from train.objectives import registry
from train.runtime.records import read_metrics


def in_int8(config):
    config.model.matmul = "int8"


def test_a_run_resumes_and_its_weights_are_plain(tiny, tmp_path):
    in_int8(tiny)
    done, workdir, mesh = tmp_path / "done", tmp_path / "cut", make_mesh("one")
    loop.run(tiny, done, mesh)
    shutil.copytree(done, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    loop.run(tiny, workdir, mesh)

    def losses(path):
        return [
            (r["step"], r["loss"]) for kind in ("train", "eval") for r in read_metrics(path, kind)
        ]

    assert losses(workdir) == losses(done)
    assert "matmul" not in json.loads((done / "models.json").read_text())["policy"]
    assert saved_models.model_config(done, "policy").matmul == "dtype"
    tiny.model.matmul = "dtype"
    shutil.rmtree(workdir / "checkpoints" / "4")
    with pytest.raises(ConfigError, match=r"model\.matmul: 'int8' -> 'dtype' \(allowed when named"):
        loop.run(tiny, workdir, mesh)


def test_frozen_weights_of_int8_are_refused(tiny):
    in_int8(tiny)
    tiny.lora.rank, tiny.freeze.dtype = 2, "int8"
    with pytest.raises(ConfigError, match=r"freeze\.dtype=int8 and model\.matmul=int8"):
        configs.build(tiny)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_near_its_gradients_in_float32(stages_dir, tmp_path, stage):
    exact, exact_losses = five_steps(stage, "one", stages_dir, tmp_path / "exact")
    grads, losses = five_steps(stage, "one", stages_dir, tmp_path / "int8", change=in_int8)
    assert np.any(losses != exact_losses)
    np.testing.assert_allclose(losses, exact_losses, atol=0.03)
    difference = jax.tree.map(lambda a, b: a - b, grads, exact)
    assert norm(difference) < 0.1 * norm(exact)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))


@pytest.mark.slow
def test_the_reference_is_multiplied_as_the_policy_and_rewards_are_not(stages_dir):
    config = stage_recipe("ppo", stages_dir)
    in_int8(config)
    config = configs.build(config)
    models = inputs.resolve_models(config, registry.find(config), vocab_size=259)
    assert models["policy"].matmul == models["reference"].matmul == "int8"
    assert models["value"].matmul == "int8" and models["reward"].matmul == "dtype"


@pytest.mark.slow
def test_adapters_train_beside_quantized_products(stages_dir, tmp_path):
    def adapted(config):
        config.lora.rank, config.lora.targets = 2, "query,gate"

    def quantized(config):
        adapted(config)
        in_int8(config)

    _, exact = five_steps("sft", "one", stages_dir, tmp_path / "exact", change=adapted)
    grads, losses = five_steps("sft", "one", stages_dir, tmp_path / "int8", change=quantized)
    np.testing.assert_allclose(losses, exact, atol=0.03)
    assert {k for k in grads["policy"]["layers"] if "lora" not in k} == set()
