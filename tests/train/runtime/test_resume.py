"""Going on: more steps, fewer steps, a run that is finished."""

import json
import types

import jax
import numpy as np
import pytest
from stage_fixtures import recipe, write_files

from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints import loading
from train.config.run import RunConfig
from train.optimizer import OptimizerConfig
from train.runtime import resume


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("resume")
    write_files(directory)
    return directory


def run(directory, name: str, steps: int) -> None:
    """A run with a constant learning rate on one device."""
    config = recipe("pretrain", directory)
    config.model.num_layers = 1
    config.optimizer.schedule = "constant"
    config.evaluate.update(at_start=False, samples=0, every=2)
    config.steps, config.log_every, config.checkpoint.every = steps, 1, 3
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    loop.run(config, directory / name, mesh)


def weights(directory, name: str) -> list[np.ndarray]:
    return jax.tree.leaves(jax.device_get(loading.load(directory / name)[1]))


def losses(directory, name: str) -> list:
    records = map(json.loads, (directory / name / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["kind"], r["loss"]) for r in records]


def test_more_steps_are_those_of_a_run_planned_so(directory, capsys):
    run(directory, "planned", 7)
    capsys.readouterr()
    run(directory, "grown", 4)
    assert "step 4: held-out loss" in capsys.readouterr().out
    run(directory, "grown", 4)
    said = capsys.readouterr().out
    assert f"{directory / 'grown'} is finished at step 4; nothing to do" in said
    assert "the same command with --config.steps=M, M above 4" in said
    assert f"--workdir=NEW --config.init_from.policy={directory / 'grown'}" in said
    assert "step 4: held-out loss" in said and "compiling" not in said

    run(directory, "grown", 7)
    said = capsys.readouterr().out
    assert "resuming" in said and "steps: 4 -> 7\n" in said
    assert losses(directory, "grown") == losses(directory, "planned")
    for grown, planned in zip(weights(directory, "grown"), weights(directory, "planned")):
        np.testing.assert_array_equal(grown, planned)
    settings = json.loads((directory / "grown" / "config.json").read_text())
    assert settings["steps"] == 7 and settings["earlier"] == [{"steps": 4, "until": 4}]
    assert "earlier" not in json.loads((directory / "planned" / "config.json").read_text())

    with pytest.raises(ConfigError, match=r"has trained 7 steps, more than steps=5.*steps=7 or"):
        run(directory, "grown", 5)
    assert json.loads((directory / "grown" / "config.json").read_text()) == settings


def test_a_change_of_steps_is_told_with_the_learning_rate_that_follows():
    config = RunConfig(steps=200, optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=0))
    earlier = {"steps": 100, "until": 100}
    assert resume.change_of_steps(config, earlier) == (
        "steps: 100 -> 200; the cosine schedule follows: learning rate 0.0001 -> 0.00055 at step "
        "100"
    )


def test_every_change_of_steps_is_kept():
    def earlier(saved, steps, step, **meta):
        meta = {"config": json.dumps({"steps": saved}), **meta}
        return resume.earlier_steps("run", meta, types.SimpleNamespace(steps=steps), step)

    first = {"steps": 10, "until": 5}
    assert earlier(10, 10, 5) == []
    assert earlier(10, 20, 5) == [first]
    assert earlier(20, 20, 8, earlier=[first]) == [first]
    assert earlier(20, 8, 8, earlier=[first]) == [first, {"steps": 20, "until": 8}]
    with pytest.raises(ConfigError, match=r"--config\.steps=8 or more"):
        earlier(20, 7, 8)
