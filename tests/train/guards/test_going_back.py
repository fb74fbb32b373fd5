"""Runs whose updates are not applied: they go back, past the data, and end as if it had not been
there; also killed and stopped in between."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo
from local_runs import records
from stage_fixtures import sharing

from data.loader import Loader
from model import sharding
from train import loop, optimizer
from train.checkpoints.checkpointer import Checkpointer
from train.guards import going_back, numbers
from train.objectives.base import LoaderSource
from train.rl.rollout import RolloutSource
from train.runtime import processes
from train.runtime.records import read_metrics

BATCHES = Loader.batches
HOOKS = sharing()


@pytest.fixture
def tiny(tiny):
    tiny.steps, tiny.guard.in_a_row = 12, 3
    return tiny


def change_batches(patch, number=lambda number: number, bad=(), value=np.nan):
    """Batch k is batch `number(k)` of the data, and the loss of the batches `bad` is `value`."""

    def batches(self, steps):
        out = []
        for k in steps:
            (batch,) = BATCHES(self, range(number(k), number(k) + 1))
            if k in bad:
                batch["loss_mask"] = batch["loss_mask"] * np.float32(value)
            out.append(batch)
        return out

    patch.setattr(Loader, "batches", batches)


def mesh_of(count):
    return sharding.make_mesh(sharding.MeshConfig(data=count), jax.devices()[:count])


def stop_after(count, config, workdir):
    """Takes `count` steps, as if told to stop."""
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "asked_to_stop", lambda: next(calls) == count)
        with pytest.raises(processes.Stopped):
            loop.run(config, workdir, mesh_of(1), hooks=HOOKS)


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def trained(workdir):
    """(step, loss, norm of the gradient) of each record."""
    return [(r["step"], r["loss"], r["grad_norm"]) for r in read_metrics(workdir, "train")]


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_goes_back_past_bad_batches(tiny, tmp_path, monkeypatch, capsys, devices):
    """The numbers are those of a run whose data never had these batches."""
    with monkeypatch.context() as patch:
        change_batches(patch, lambda k: k + 4 * (k >= 4))
        loop.run(tiny, tmp_path / "without", mesh_of(devices), hooks=HOOKS)
    expected = trained(tmp_path / "without")
    change_batches(monkeypatch, bad=(5, 6, 7))
    loop.run(tiny, tmp_path / "run", mesh_of(devices), hooks=HOOKS)
    assert trained(tmp_path / "run") == expected and len(expected) == 4
    out = capsys.readouterr().out
    assert "  step 6: update not applied, loss not finite · batch 5 · rows " in out
    assert f" more · {tmp_path}/text.txt:" in out
    assert "  step 6: no checkpoint, as its update was not applied" in out
    assert (
        "step 8: 3 updates in a row not applied (loss not finite); back to step 4, past batches 4 "
        "to 7; 1 of 3 times\n" in out
    )
    lines = logged(tmp_path / "run")
    entry = {"at": 8, "to": 4, "in_a_row": 3, "cause": "loss not finite", "past": "batches 4 to 7"}
    (line,) = (r for r in lines if r["kind"] == "went_back")
    assert line | entry == line and line["step"] == 5
    assert not [r for r in lines if r["kind"] == "not_applied"]
    meta = Checkpointer(tmp_path / "run", 9).meta(12)
    assert meta["went_back"] == [entry] and meta["skipped"] == 0
    assert json.loads((tmp_path / "run" / "goodput.json").read_text())["lost_steps"] == 4


@pytest.mark.slow
def test_a_run_that_is_killed_or_stopped_goes_back_past_the_same_batches(
    tiny, tmp_path, monkeypatch
):
    """Killed after it went back and before the next checkpoint; stopped within the row of faults,
    and after it went back."""
    change_batches(monkeypatch, bad=(5, 6, 7))
    loop.run(tiny, tmp_path / "run", mesh_of(1), hooks=HOOKS)
    next_batch, runs = LoaderSource.next, tmp_path / "killed"

    def killed(self, state, frozen, s, step):
        if s["step"] == 9:
            raise SystemExit
        return next_batch(self, state, frozen, s, step)

    with monkeypatch.context() as patch:
        patch.setattr(LoaderSource, "next", killed)
        with pytest.raises(SystemExit):
            loop.run(tiny, runs, mesh_of(1), hooks=HOOKS)
    assert Checkpointer(runs, 9).latest() == 4
    stop_after(3, tiny, runs)
    assert Checkpointer(runs, 9).meta(7)["guard"] == {"due": False, "in_a_row": 2}
    stop_after(4, tiny, runs)  # one, and three after it went back
    assert Checkpointer(runs, 9).latest() == 7
    assert Checkpointer(runs, 9).meta(7)["guard"] == {"due": False, "in_a_row": 0}
    loop.run(tiny, runs, mesh_of(1), hooks=HOOKS)
    assert trained(runs) == trained(tmp_path / "run")
    assert [r["kind"] for r in logged(runs)].count("went_back") == 1


@pytest.mark.parametrize(
    ("rate", "cause", "step"), [(1e20, "gradient", 4), (np.inf, "new weights", 1)]
)
def test_weights_that_a_rate_has_ruined_are_not_saved(
    tiny, tmp_path, monkeypatch, capsys, rate, cause, step
):
    """The first update makes weights that are finite, and no gradient of theirs is; or infinite
    ones, which are left at once."""
    monkeypatch.setattr(optimizer, "make_schedule", lambda c, steps: lambda step: jnp.float32(rate))
    tiny.guard.go_back, tiny.checkpoint.every = 1, 3
    count = "3 updates in a row" if step > 1 else "1 update"
    message = (
        rf"{count} up to step {step} could not be applied \({cause} not finite\), and the run "
        r"went back 1 times before\. Lower the learning rate.*data.inspect --step=\d+ "
    )
    with pytest.raises(FloatingPointError, match=message):
        loop.run(tiny, tmp_path / "run", mesh_of(1))
    assert Checkpointer(tmp_path / "run", 9).latest() is None
    past = f"batches 0 to {step - 1}" if step > 1 else "batch 0"
    line = f"back to the start, past {past}; 1 of 1 times"
    assert line in capsys.readouterr().out


def test_the_checkpoint_to_go_back_to():
    def target(saved, first, to=None):
        metas = {
            step: {"guard": dict(zip(("due", "in_a_row"), pair))} for step, pair in saved.items()
        }
        checkpoints = SimpleNamespace(steps=lambda: list(saved), meta=metas.get)
        return going_back.target(checkpoints, [] if to is None else [{"to": to}], first)

    saved = {10: (True, 0), 20: (True, 0), 23: (False, 0), 25: (True, 2)}
    assert target(saved, first=24) == 20  # neither of a run that was stopped nor of a fault
    assert target(saved, first=21, to=20) == 10  # no update was applied since
    assert target(saved, first=22, to=20) == 20
    assert target({20: (True, 0)}, first=21, to=20) == 20  # there is no older one
    assert target({23: (False, 1)}, first=23) == 23
    assert target({20: ()}, first=24) == 20  # of an old run
    assert target({}, first=1) == 0


def test_a_spike_is_left_out_and_the_losses_that_measure_it_are_resumed(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(numbers, "WINDOW", 4)
    tiny.guard.spike, tiny.optimizer.peak_lr, tiny.checkpoint.every = 5.0, 1e-2, 5

    def batches(self, steps):
        out = BATCHES(self, steps)
        for k, batch in zip(steps, out, strict=True):
            if k == 8:  # characters that nothing has learned
                batch["tokens"] = np.where(batch["tokens"] > 9, 255 - batch["tokens"], 0)
        return out

    monkeypatch.setattr(Loader, "batches", batches)
    runs = [tmp_path / "whole", tmp_path / "stopped"]
    stop_after(7, tiny, runs[1])
    for run in runs:
        loop.run(tiny, run, mesh_of(1), hooks=HOOKS)
    assert "step 9: update not applied, loss spike · batch 8" in capsys.readouterr().out
    assert trained(runs[0]) == trained(runs[1])
    metas = [Checkpointer(run, 9).meta(12) for run in runs]
    assert [meta["skipped"] for meta in metas] == [1, 1]
    assert metas[0]["guard"] == metas[1]["guard"] and len(metas[0]["guard"]["losses"]) == 4


@pytest.mark.slow
def test_ppo_goes_back_past_the_prompts_of_a_bad_rollout(tmp_path, monkeypatch, capsys):
    """Also killed before it has saved again. Its text continues with the minibatches."""
    tiny_ppo.write_origins(tmp_path)
    config = tiny_ppo.recipe("ppo", tmp_path, rollouts=3)
    config.rl.pretrain_coef, config.guard.in_a_row, config.checkpoint.every = 0.1, 2, 3
    next_batch, drawn, dies = RolloutSource.next, [], []

    def spoiled(self, state, frozen, s, step):
        batch, s, metrics = next_batch(self, state, frozen, s, step)
        drawn.append((step, int(s["drawn"]), int(s["minibatch"])))
        if s["drawn"] == 2:
            batch["advantages"] = batch["advantages"] * np.nan
        if dies and s["drawn"] == 3 and s["minibatch"] == dies[0]:
            raise SystemExit
        return batch, s, metrics

    monkeypatch.setattr(RolloutSource, "next", spoiled)
    loop.run(config, tmp_path / "run", mesh_of(8), open_data=tiny_ppo.OPEN_DATA)
    steps = [(step, number) for step, number, _ in drawn]
    # The second rollout begins at step 4, from 0; the checkpoint of 3 steps is in the first.
    first, bad, rest = [(k, 1) for k in range(4)], [(4, 2), (5, 2)], [(k, 3) for k in range(3, 7)]
    assert steps == [*first, *bad, *rest, *((k, 4) for k in range(7, 11)), (11, 5)]
    out = capsys.readouterr().out
    assert "back to step 3, past the prompts up to rollout 2; 1 of 3 times" in out
    dies.append(2)
    with pytest.raises(SystemExit):
        loop.run(config, tmp_path / "killed", mesh_of(8), open_data=tiny_ppo.OPEN_DATA)
    dies.clear()
    loop.run(config, tmp_path / "killed", mesh_of(8), open_data=tiny_ppo.OPEN_DATA)
    assert records(tmp_path / "killed") == records(tmp_path / "run")
