"""Going on: more steps, fewer steps, a run that is finished."""

import json

import jax
import numpy as np
import pytest
from stage_fixtures import recipe, sharing, write_files

from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints import loading
from train.checkpoints.checkpointer import Checkpointer
from train.config.run import RunConfig
from train.guards.settings import Difference, Kind
from train.optimizer import OptimizerConfig
from train.runtime import resume

HOOKS = sharing()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("resume")
    write_files(directory)
    return directory


def run(directory, name: str, steps: int, allow_change=(), **optimizer) -> None:
    """A run with a constant learning rate on one device."""
    config = recipe("pretrain", directory)
    config.model.num_layers = 1
    config.optimizer.update(schedule="constant", **optimizer)
    config.evaluate.update(at_start=False, samples=0, every=2)
    config.steps, config.log_every, config.checkpoint.every = steps, 1, 3
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    loop.run(config, directory / name, mesh, allow_change=allow_change, hooks=HOOKS)


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
    assert "the same command with --allow_change=steps --config.steps=M, M above 4" in said
    assert f"--workdir=NEW --config.init_from.policy={directory / 'grown'}" in said
    assert "step 4: held-out loss" in said and "compiling" not in said

    with pytest.raises(ConfigError, match=r"steps: 4 -> 7 \(allowed when named\)\n.*=steps;"):
        run(directory, "grown", 7)
    run(directory, "grown", 7, ("steps",))
    said = capsys.readouterr().out
    assert "resuming" in said and "steps: 4 -> 7\n" in said
    assert losses(directory, "grown") == losses(directory, "planned")
    for grown, planned in zip(weights(directory, "grown"), weights(directory, "planned")):
        np.testing.assert_array_equal(grown, planned)
    settings = json.loads((directory / "grown" / "config.json").read_text())
    change = {"step": 4, "setting": "steps", "before": 4, "now": 7}
    assert settings["steps"] == 7 and settings["lineage"] == [change]
    assert Checkpointer(directory / "grown", 2).meta(7)["lineage"] == [change]
    assert "lineage" not in json.loads((directory / "planned" / "config.json").read_text())

    with pytest.raises(ConfigError, match=r"has trained 7 steps, more than steps=5.*steps=7 or"):
        run(directory, "grown", 5)
    assert json.loads((directory / "grown" / "config.json").read_text()) == settings

    run(directory, "grown", 8, ("steps", "optimizer.peak_lr"), peak_lr=0.002)
    assert "  optimizer.peak_lr: 0.003 -> 0.002\n" in capsys.readouterr().out
    *first, rate, steps = Checkpointer(directory / "grown", 2).meta(8)["lineage"]
    assert first == [change] and steps == change | {"step": 7, "before": 7, "now": 8}
    assert rate == {"step": 7, "setting": "optimizer.peak_lr", "before": 0.003, "now": 0.002}
    run(directory, "grown", 8, ("steps",), peak_lr=0.002)  # the name of what has not changed


def test_a_change_of_steps_is_told_with_the_learning_rate_that_follows():
    config = RunConfig(steps=200, optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=0))
    assert resume.change_of_steps(config, 100, 100) == (
        "steps: 100 -> 200; the cosine schedule follows: learning rate 0.0001 -> 0.00055 at step "
        "100"
    )


def test_the_lineage_of_an_older_version_is_read():
    meta = {"config": json.dumps({"steps": 20}), "earlier": [{"steps": 10, "until": 5}]}
    first = {"step": 5, "setting": "steps", "before": 10, "now": 20}
    assert resume.lineage(meta, [], 9) == [first]
    changes = [Difference("steps", 20, 30, Kind.NAMED), Difference("log_every", 1, 2, Kind.FREE)]
    second = {"step": 9, "setting": "steps", "before": 20, "now": 30}
    assert resume.lineage(meta, changes, 9) == [first, second]
    assert resume.lineage({"lineage": [first]}, changes, 9) == [first, second]
