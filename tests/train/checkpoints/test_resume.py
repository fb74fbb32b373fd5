"""A run that resumes from what is left of its checkpoints."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from fault_injection.files import flip, largest, no_room
from stage_fixtures import recipe, sharing, write_files

from model import sharding
from ranges import ConfigError
from train import loop
from train.checkpoints import checkpointer, failures
from train.runtime.records import read_metrics

HOOKS = sharing()


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(), sharding.jax.devices()[:1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, mesh):
    """(recipe, workdir of its finished run, which saved steps 2 and 4)."""
    folder = tmp_path_factory.mktemp("tiny")
    write_files(folder)
    config = recipe("pretrain", folder)
    config.model.num_layers = 1
    config.data.heldout_limit = 16
    config.steps, config.log_every, config.checkpoint.every = 4, 1, 2
    config.evaluate.at_start, config.evaluate.every, config.checkpoint.best = False, 2, "loss"
    loop.run(config, folder / "run", mesh, hooks=HOOKS)
    return config, folder / "run"


def records(workdir, kind):
    """The losses of a run, by step."""
    return {r["step"]: r["loss"] for r in read_metrics(workdir, kind)}


def test_a_run_continues_exactly_from_the_newest_valid_checkpoint(tiny, mesh, tmp_path, capsys):
    config, finished = tiny
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    path = largest(workdir / "checkpoints/4/opt_state")
    flip(path, 4 * path.stat().st_size)
    loop.run(config, workdir, mesh, hooks=HOOKS)
    out = capsys.readouterr().out
    assert "warning: checkpoint 4 is rejected: opt_state" in out and "from step 2" in out
    for kind in ("train", "eval"):
        assert records(workdir, kind) == records(finished, kind)
    metas = [w / "checkpoints/4/meta/metadata" for w in (workdir, finished)]
    arrays = [json.loads(path.read_text())["arrays"] for path in metas]
    assert arrays[0] == arrays[1] and (workdir / "checkpoints_rejected/4").is_dir()
    assert read_metrics(finished, "train")[2]["checkpoint/held_seconds"] > 0
    assert json.loads((workdir / "saved.json").read_text())["scores"].keys() == {"2", "4"}


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(tiny, mesh, tmp_path):
    config, finished = tiny
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints")
    before = (workdir / "metrics.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigError, match="has saved step 4, and its checkpoints are gone"):
            loop.run(config, workdir, mesh)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    (workdir / "saved.json").unlink()  # as of an earlier version
    with pytest.raises(ConfigError, match="has logged step 4, and its checkpoints are gone"):
        loop.run(config, workdir, mesh)


def test_a_run_goes_on_while_its_saves_fail(tiny, mesh, tmp_path, monkeypatch, capsys):
    """There is no room for its first save and for the first retry."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.0)
    start, tried = checkpointer.Checkpointer._start, []

    def start_without_room(self, step, items, meta):
        tried.append(step)
        with no_room() if len(tried) <= 2 else contextlib.nullcontext():
            start(self, step, items, meta)
            self._error = self._error or checkpointer._error_of(self._manager.wait_until_finished)

    config, finished = tiny
    monkeypatch.setattr(checkpointer.Checkpointer, "_start", start_without_room)
    loop.run(config, tmp_path / "run", mesh, hooks=HOOKS)
    out = capsys.readouterr().out
    assert tried == [2, 3, 4] and out.count("could not be saved") == 2
    assert "step 4 is saved, after 2 failed" in out
    assert records(tmp_path / "run", "train") == records(finished, "train")
    assert read_metrics(tmp_path / "run", "train")[-1]["checkpoint/failed"] == 1
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["4"]
