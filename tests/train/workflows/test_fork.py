"""Forks: a run that continues another one from one of its steps."""

import json

import jax
import numpy as np
import pytest
from stage_fixtures import ORIGINS, recipe, sharing, write_files

from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints import loading
from train.config import saved
from train.runtime.records import read_metrics

HOOKS = sharing()


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


def settings(folder, **changes):
    config = recipe("pretrain", folder)
    config.model.num_layers = 1
    config.data.heldout_limit = 16
    config.optimizer.schedule = "constant"
    config.evaluate.at_start = False
    config.update(steps=4, log_every=1)
    config.checkpoint.update(every=1, keep=9)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def parent(tmp_path_factory, mesh):
    folder = tmp_path_factory.mktemp("fork")
    write_files(folder)
    loop.run(settings(folder), folder / "parent", mesh, hooks=HOOKS)
    return folder / "parent"


def losses(workdir, after=0):
    """{(kind, step): loss} of the steps after one."""
    return {
        (kind, r["step"]): r["loss"]
        for kind in ("train", "eval")
        for r in read_metrics(workdir, kind)
        if r["step"] > after
    }


def same_weights(a, b):
    for left, right in zip(*(jax.tree.leaves(jax.device_get(loading.load(w)[1])) for w in (a, b))):
        np.testing.assert_array_equal(left, right)


def test_a_fork_without_changes_is_its_parent_continued(parent, mesh, tmp_path, capsys):
    config = saved.recipe_of(f"{parent}@2")
    before = sorted(p.name for p in parent.rglob("*"))
    loop.run(config, tmp_path / "fork", mesh, fork=f"{parent}@2", hooks=HOOKS)
    assert f"forking {parent}@2" in capsys.readouterr().out
    assert losses(tmp_path / "fork", 2) == losses(parent, 2) and len(losses(parent, 2)) == 3
    same_weights(tmp_path / "fork", parent)
    assert sorted(p.name for p in parent.rglob("*")) == before
    lineage = json.loads((tmp_path / "fork/config.json").read_text())["lineage"]
    assert lineage == [
        {"step": 2, "setting": "fork", "before": str(parent), "now": str(tmp_path / "fork")}
    ]
    loop.run(config, tmp_path / "end", mesh, fork=f"{parent}@4", hooks=HOOKS)
    assert "its last step: no step is left to train" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"that is a fork of .*@2; give"):
        loop.run(config, tmp_path / "fork", mesh, fork=f"{parent}@3", hooks=HOOKS)


def test_a_fork_is_resumed_from_its_own_checkpoints(parent, mesh, tmp_path, capsys):
    """Also by the same command, and where its parent has only what it had."""
    config = saved.recipe_of(f"{parent}@2")
    config.optimizer.peak_lr, config.steps = 1e-3, 3
    loop.run(config, tmp_path / "fork", mesh, fork=f"{parent}@2", hooks=HOOKS)
    out = capsys.readouterr().out
    assert "optimizer.peak_lr: 0.003 -> 0.001" in out and "steps: 4 -> 3" in out
    assert read_metrics(tmp_path / "fork", "train")[0]["learning_rate"] == pytest.approx(1e-3)
    config.steps = 4
    allow = ("steps",)
    loop.run(config, tmp_path / "fork", mesh, fork=f"{parent}@2", allow_change=allow, hooks=HOOKS)
    assert "resuming" in capsys.readouterr().out
    lineage = json.loads((tmp_path / "fork/config.json").read_text())["lineage"]
    changes = [(c["step"], c["setting"], c["now"]) for c in lineage]
    assert changes[0][:2] == (2, "fork")
    assert changes[1:] == [(2, "optimizer.peak_lr", 0.001), (2, "steps", 3), (3, "steps", 4)]


def test_a_fork_may_read_other_data(parent, mesh, tmp_path):
    """From its step on it takes the rows that a run of that data would take."""
    (parent.parent / "other.txt").write_text(
        "".join(f"open close {i} read path of {i}\n" for i in range(400))
    )
    config = saved.recipe_of(str(parent))
    config.data.source = str(parent.parent / "other.txt")
    loop.run(config, tmp_path / "fork", mesh, fork=f"{parent}@2", hooks=HOOKS)
    assert losses(tmp_path / "fork", 2).keys() == losses(parent, 2).keys()
    assert losses(tmp_path / "fork", 2) != losses(parent, 2)


def test_what_a_fork_cannot_take_is_refused_with_the_reason(parent, mesh, tmp_path):
    def refused(name, message, **changes):
        config = saved.recipe_of(str(parent))
        for key, value in changes.items():
            group, _, leaf = key.rpartition("__")
            config[group][leaf] = value
        with pytest.raises(ConfigError, match=message):
            loop.run(config, tmp_path / "fork", mesh, fork=name, hooks=HOOKS)
        assert not (tmp_path / "fork/metrics.jsonl").exists()

    at_2 = f"{parent}@2"
    refused(at_2, r"model.embed_dim: .* -> 64 \(the weights", model__embed_dim=64)
    refused(at_2, r"optimizer.name: 'adamw' -> 'muon' \(the saved", optimizer__name="muon")
    refused(at_2, r"clip_norm: 1.0 -> 0.0 \(it would add", optimizer__clip_norm=0.0)
    refused(  # before the data is read
        at_2, "model.embed_dim: .* -> 64", model__embed_dim=64,
        data__source="nowhere.txt",
    )  # fmt: skip
    refused(f"{parent}@7", f"no checkpoint of step 7; the nearest is {parent}@4 .*1, 2, 3, 4")
    refused(str(parent), f"names no step; type --fork={parent}@4")
    refused(f"{tmp_path}/none@2", "does not exist")
    with pytest.raises(ConfigError, match="is --workdir itself"):
        loop.run(saved.recipe_of(str(parent)), parent, mesh, fork=at_2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ORIGINS)
def test_a_fork_of_every_stage_is_its_parent_continued(stage, stages_dir, mesh, tmp_path):
    """PPO and GRPO in the middle of a rollout."""
    parent = stages_dir / stage
    loop.run(saved.recipe_of(f"{parent}@3"), tmp_path / "fork", mesh, fork=f"{parent}@3")
    key = "score" if stage in ("ppo", "grpo") else "loss"
    for kind in ("train", "eval"):
        values, expected = (
            {r["step"]: r.get(key, r.get("loss")) for r in read_metrics(w, kind) if r["step"] > 3}
            for w in (tmp_path / "fork", parent)
        )
        assert values == expected and values
    same_weights(tmp_path / "fork", parent)
