"""Early stopping: when a run ends, that it stays ended, and goes on with more patience."""

import functools

import jax
import pytest
from stage_fixtures import sharing

from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train import loop
from train.checkpoints import verification
from train.config.run import CheckpointConfig, EvaluateConfig, RunConfig
from train.inspect.records.runs import runs
from train.measures.patience import Patience
from train.runtime.records import read_records


def patience(most: int, *losses: float | None, metric: str = "loss", **checkpoint) -> Patience:
    config = RunConfig(
        evaluate=EvaluateConfig(every=1, patience=most), checkpoint=CheckpointConfig(**checkpoint)
    )
    return Patience(config, [{"step": n, metric: x} for n, x in enumerate(losses)])


def test_a_run_ends_after_evaluations_without_a_better_value():
    assert not patience(2, 3.0, 2.0, 2.5).ended
    ended = patience(2, 3.0, 2.0, 2.5, 2.0)  # as good is not better
    assert ended.ended and (ended.best, ended.best_step, ended.count) == (2.0, 1, 2)
    assert not patience(0, 3.0, 4.0, 5.0).ended and not patience(3, 3.0, 4.0, 5.0).ended
    assert patience(2, 3.0, None, float("nan")).ended  # null in the file
    assert not patience(2, None, None, 3.0).ended
    assert patience(2, 0.5, 0.4, 0.3, metric="accuracy/overall").ended
    assert not patience(2, 0.3, 0.4, 0.5, metric="accuracy/overall").ended
    assert patience(2, 3.0, 2.0, 1.0, best="loss", best_mode="max").ended
    assert not patience(2, 3.0, 4.0, 5.0, best="wiki/loss").ended  # it has not been measured


def test_the_evaluation_of_a_step_counts_once():
    found = patience(2, 3.0, 4.0)
    found.add(1, {"loss": 4.0})
    found.add(2, {"wiki/loss": 4.0})
    assert found.count == 1
    found.add(2, {"loss": 4.0})
    assert found.ended


def test_patience_without_evaluations_is_refused():
    with pytest.raises(ConfigError, match=r"evaluate.every=0 .*set --config.evaluate.every"):
        RunConfig(evaluate=EvaluateConfig(patience=2))


def test_a_run_ends_itself_and_stays_ended_until_it_has_more_patience(tiny, tmp_path, capsys):
    tiny.steps, tiny.evaluate.every, tiny.evaluate.patience = 6, 1, 2
    tiny.optimizer.peak_lr, tiny.log_every = 0.0, 1
    workdir = tmp_path / "run"
    one_device = make_mesh(MeshConfig(), jax.devices()[:1])
    run = functools.partial(loop.run, mesh=one_device, hooks=sharing())
    run(tiny, workdir)
    said = capsys.readouterr().out
    assert "the run ends at step 3 of 6: loss has not improved in 2 evaluations" in said
    assert max(verification.steps(workdir)) == 3
    records = read_records(workdir / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3]
    (end,) = (r for r in records if r["kind"] == "ended")
    assert (end["metric"], end["best_step"], end["evaluations"]) == ("loss", 1, 2)
    assert runs(workdir)["status"].tolist() == ["ended at step 3"]

    run(tiny, workdir)
    assert "the run ends at step 3 of 6" in capsys.readouterr().out
    assert read_records(workdir / "metrics.jsonl") == records

    tiny.evaluate.patience = 0
    run(tiny, workdir)
    assert max(verification.steps(workdir)) == 6
    assert runs(workdir)["status"].tolist() == ["finished"]
