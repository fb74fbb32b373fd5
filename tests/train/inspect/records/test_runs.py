"""Several runs as one frame, and a metric of theirs as a figure."""

import json

import jax
import numpy as np
import pytest
from stage_fixtures import ORIGINS, recipe

from model import sharding
from ranges import ConfigError
from train import inspect
from train.assembly.run import setup
from train.config import run as configs
from train.inspect.records import files
from train.inspect.records.curves import moving_average
from train.inspect.records.files import read_runs
from train.inspect.records.runs import cost
from train.runtime import flops
from train.terminal import messages


def write_run(folder, records=(), **settings):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"stage": "sft", "steps": 4, **settings}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def train(step, **values):
    return {"step": step, "kind": "train", "elapsed_seconds": step * 2.0, **values}


def held_out(step, **values):
    return {"step": step, "kind": "eval", "elapsed_seconds": step * 2.0, **values}


@pytest.fixture
def folder(tmp_path):
    """Two runs that differ in two settings, a chain, and folders that are no runs."""
    records = [held_out(0, loss=3.0), train(2, loss=2.5), held_out(2, loss=1.0, score=None)]
    a = records + [train(4, loss=2.0), held_out(4, loss=1.5)]
    write_run(tmp_path / "a", a, seed=1, data={"length": 8, "fields": {"x": [1, 2]}})
    write_run(tmp_path / "b", records, seed=2, data={"length": 8, "fields": {"x": [1, 3]}})
    write_run(tmp_path / "chain/inner", [train(1, loss=7.0)], seed=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "report.html").touch()
    write_run(tmp_path / "torn").joinpath("config.json").write_text('{"stage": ')
    write_run(tmp_path / "foreign").joinpath("config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def test_a_frame_has_what_differs_and_what_came_of_it(folder, capsys):
    (folder / "a" / "saved.json").write_text('{"steps": [2, 4], "scores": {}}')
    (folder / "a" / "goodput.json").write_text('{"seconds": {"step": 5.0, "init": 1.25}}')
    frame = inspect.runs(f"{folder}/*")
    names = [str(folder / name) for name in ("a", "b", "chain/inner")]
    assert frame.index.tolist() == names
    assert frame["status"].tolist() == ["finished", "at step 2", "at step 1"]
    assert frame["seconds"].tolist() == [6.2, 4.0, 2.0]
    assert frame["last loss"].tolist() == [1.5, 1.0, 7.0]
    assert frame["best loss"].tolist() == [1.0, 1.0, 7.0]
    assert frame["seed"].tolist() == [1, 2, 1]
    assert frame["data.fields.x"].tolist()[:2] == [(1, 2), (1, 3)]
    assert frame["step"].tolist() == [4, 2, 1] and "last score" not in frame
    assert frame["data.length"].tolist() == [8, 8, 128]  # the chain's run has the default
    said = capsys.readouterr().err
    for name, reason in {
        "notes": "is no run: it has no config.json",
        "torn/config.json": "",
        "foreign/config.json": "has no stage",
        "a: tokens and FLOPs are not known": "",
    }.items():
        assert f"{folder}/{name}" in said and reason in said
    assert "report.html" not in said
    only = inspect.runs([folder / "a", folder / "b"], metrics=["sco*"])
    assert "data.length" not in only and "seed" in only


def test_no_run_is_refused(folder):
    with pytest.raises(ConfigError, match=r"x\*: no such folder holds a run"):
        inspect.runs(f"{folder}/x*")
    with pytest.raises(ConfigError, match="holds a run"):
        inspect.curves(folder / "absent", "loss")


def test_names_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("run-10", "run-9"):
        write_run(tmp_path / name)
    assert [run.workdir.name for run in read_runs(f"{tmp_path}/run-*")] == ["run-9", "run-10"]


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_tokens_and_flops_are_those_that_the_run_counts(stages_dir, tmp_path, stage):
    """Computed from the files of the workdir alone, as the loop counts them with its data."""
    workdir = stages_dir / stage
    (run,) = read_runs(workdir)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    origins = {role: stages_dir / name for role, name in ORIGINS[stage].items()}
    with jax.set_mesh(mesh):
        ready = setup(configs.build(recipe(stage, stages_dir, **origins)), tmp_path, mesh)
    total = 8 * messages.flops_per_step(ready)
    if stage == "ppo":
        total += 2 * flops.of_rollout(ready.ctx.config, ready.ctx.models)
    assert cost(run, 8) == {"tokens": 8 * messages.tokens_per_step(ready), "flops": total}


def test_curves_have_both_kinds_smoothed_and_labelled(folder):
    frame, figure = inspect.curves(f"{folder}/[ab]", "loss", smooth=0.5)
    a = frame[frame["run"] == str(folder / "a")]
    assert a["kind"].tolist() == ["train", "train", "eval", "eval", "eval"]
    assert a["value"].tolist() == [2.5, 2.0, 3.0, 1.0, 1.5]
    assert a["smoothed"].tolist()[:2] == [2.5, pytest.approx((0.5 * 2.0 + 0.25 * 2.5) / 0.75)]
    assert a["smoothed"].tolist()[2:] == [3.0, 1.0, 1.5]  # evaluations are few, and stay
    (axes,) = figure.axes
    assert axes.get_xlabel() == "optimizer step" and axes.get_ylabel() == "nats a token"
    assert figure.get_suptitle() == "loss"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[:2] == [f"{folder}/a (training)", f"{folder}/a (held out)"]
    assert axes.get_legend().get_title().get_text() == "smoothed by 0.5"
    curves = inspect.curves(f"{folder}/*", "eval/loss")
    assert {*curves.frame["kind"]} == {"eval"}
    assert curves._repr_html_().startswith('<img alt="loss" src="data:image/png;base64,iVBOR')
    assert repr(curves).startswith("loss\n") and "1.0 … 3.0" in repr(curves)
    assert "1 runs without it" in str(curves.figure.axes[0].get_legend().get_title())


def test_a_metric_that_no_run_has_is_answered_with_the_nearest(folder):
    with pytest.raises(ConfigError, match=r"has the metric losss; did you mean loss\?"):
        inspect.curves(f"{folder}/*", "losss")
    with pytest.raises(ConfigError, match=r"smooth=1\.0; it is a factor from 0 to below 1"):
        inspect.curves(f"{folder}/*", "loss", smooth=1.0)


def test_the_moving_average_has_no_bias():
    np.testing.assert_allclose(moving_average([3.0, 3.0, 3.0], 0.9), 3.0)
    np.testing.assert_array_equal(moving_average([1.0, 5.0], 0.0), [1.0, 5.0])


def test_patterns_reach_below_folders_and_home(tmp_path, monkeypatch):
    write_run(tmp_path / "x" / "one")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [run.workdir.name for run in read_runs("~/x/o*")] == ["one"]
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in read_runs("*/one")] == ["x/one"]
    assert files.has_settings(tmp_path / "x" / "one")
