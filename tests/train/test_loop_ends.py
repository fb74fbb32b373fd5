"""The ends of failing runs, tested on a tiny run whose loss or source is spoiled."""

import ml_collections
import pytest
from stage_fixtures import sharing

from model import sharding
from train import attempt, loop
from train.assembly import programs
from train.checkpoints.checkpointer import Checkpointer
from train.config.run import RunConfig
from train.evals.perplexity import Perplexity
from train.objectives.base import LoaderSource
from train.rl.rewards import RewardError
from train.runtime import processes
from train.runtime.records import read_metrics
from train.step import make_train_step
from train.terminal import interrupts
from train.workflows import multistage


def spoil(monkeypatch, steps):
    """The loss of these steps, counted from 0, is NaN."""

    def make(stage, tx, accumulate, *more):
        step_fn = make_train_step(stage, tx, accumulate, *more)

        def step(state, frozen, batch, rates):
            bad = sum(state.step == number for number in steps)
            mask = batch["loss_mask"] * (0.0 / (1.0 - bad))
            batch = batch | {"loss_mask": batch["loss_mask"] + mask}
            return step_fn(state, frozen, batch, rates)

        return step

    monkeypatch.setattr(programs, "make_train_step", make)


ONE = sharding.MeshConfig()


def test_a_run_of_skipped_updates_is_no_success_and_is_none_again(tiny, tmp_path, monkeypatch):
    """In a chain. Steps between those that are logged count, and are in every checkpoint."""
    spoil(monkeypatch, (0, 2))
    one_device = sharding.make_mesh(ONE, sharding.jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda config: one_device)
    chained = ml_collections.ConfigDict({"order": ("a",), "stages": {"a": tiny}}, type_safe=False)
    run, message = tmp_path / "runs" / "a", "2 of 4 updates were not applied"
    with pytest.raises(FloatingPointError, match=message):
        multistage.run(chained, tmp_path / "runs")
    assert Checkpointer(run, 1).latest() == 4 and not (run / "DONE").exists()
    with pytest.raises(FloatingPointError, match=message):
        multistage.run(chained, tmp_path / "runs")  # all that is left to do is to say so again
    assert [Checkpointer(run, 9).meta(step)["skipped"] for step in (2, 4)] == [1, 2]


def test_what_was_done_before_a_reward_failed_is_saved(tiny, tmp_path, monkeypatch, capsys):
    tiny.steps, tiny.checkpoint.every = 3, 0
    mesh = sharding.make_mesh(ONE, sharding.jax.devices()[:1])
    next_batch = LoaderSource.next

    def fails(self, state, frozen, s, step):
        if step == 1:
            raise RewardError("no number")
        return next_batch(self, state, frozen, s, step)

    with monkeypatch.context() as patch:
        patch.setattr(LoaderSource, "next", fails)
        with pytest.raises(
            RewardError, match="no number\nThe run is saved at step 1; run the same command"
        ):
            loop.run(tiny, tmp_path / "run", mesh)
    assert Checkpointer(tmp_path / "run", 1).latest() == 1
    tiny.rewards.on_error = "skip"

    loop.run(tiny, tmp_path / "run", mesh)
    assert "from step 1" in capsys.readouterr().out
    assert [r["step"] for r in read_metrics(tmp_path / "run", "train")] == [3]


def test_an_evaluation_that_fails_ends_no_run_and_is_made_again(
    tiny, tmp_path, monkeypatch, capsys
):
    """It fails at each step, then at the end only, then not at all."""
    tiny.log_every, tiny.evaluate.every, hooks = 1, 2, sharing()
    mesh = sharding.make_mesh(ONE, sharding.jax.devices()[:1])
    loop.run(tiny, tmp_path / "whole", mesh, hooks=hooks)
    out = capsys.readouterr().out
    assert "warning" not in out

    def unfit(self, trainable, frozen):
        raise RewardError("none here\x1b[2J")

    def losses(run):
        return [r["loss"] for r in read_metrics(tmp_path / run, "train")]

    with monkeypatch.context() as patch:
        patch.setattr(Perplexity, "__call__", unfit)
        loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
    assert Checkpointer(tmp_path / "run", 1).latest() == 4
    assert losses("run") == losses("whole")
    said = capsys.readouterr().out
    assert said.count("evaluation heldout failed at step") == 1
    assert r"failed 2 of 2 times, the last at step 4: RewardError: none here\x1b[2J" in said
    assert "nothing has measured what this run learned" in said
    failed = [r["failed"] for r in read_metrics(tmp_path / "run", "eval")]
    assert failed == [{"": "RewardError: none here\x1b[2J"}] * 2

    loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)  # the last one is made
    assert "failed 1 of 2 times, the last at step 2" in capsys.readouterr().out
    whole, again = (read_metrics(tmp_path / run, "eval")[-1] for run in ("whole", "run"))
    assert whole["loss"] == again["loss"] and "failed" not in again
    loop.run(tiny, tmp_path / "run", mesh)
    assert "is finished at step 4; nothing to do" in capsys.readouterr().out
    assert [r["step"] for r in read_metrics(tmp_path / "run", "eval")] == [2, 4]


def test_a_run_whose_logs_cannot_be_written_trains_and_saves(tiny, tmp_path, monkeypatch, capsys):
    """Folders are in the place of its files; they are written once these are gone."""
    run, mesh = tmp_path / "run", sharding.make_mesh(ONE, sharding.jax.devices()[:1])
    names = ("config.json", "models.json", "goodput.json", "metrics.jsonl", "samples.jsonl")
    for name in names:
        (run / name).mkdir(parents=True)
    (run / "tokenizer").write_text("in the way")
    (run / "rows").write_text("in the way")
    monkeypatch.setattr("socket.gethostname", lambda: "host" * 100)  # no event file either
    save = Checkpointer.save

    def saved(self, *args, **options):
        if (run / "config.json").is_dir():
            for name in names:
                (run / name).rmdir()
            (run / "tokenizer").unlink()
        return save(self, *args, **options)

    monkeypatch.setattr(Checkpointer, "save", saved)
    loop.run(tiny, run, mesh)
    assert Checkpointer(run, 1).latest() == 4
    assert (
        all((run / name).is_file() for name in names if name != "samples.jsonl")
        and (run / "tokenizer").is_dir()
    )
    assert [r["step"] for r in read_metrics(run, "train")] == [3, 4]
    said = capsys.readouterr().err
    assert "config.json cannot be written" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("steps", "log_every", "interval"), [(4, 0, 1), (25, 0, 2), (5000, 0, 10), (25, 7, 7)]
)
def test_a_short_run_writes_enough_records_for_a_curve(steps, log_every, interval):
    assert attempt.log_interval(RunConfig(steps=steps, log_every=log_every)) == interval


def test_a_stopped_run_evaluates_when_it_is_resumed(tiny, tmp_path, monkeypatch, capsys):
    """Stopped before an evaluation by SIGTERM, and in the next one by Ctrl-C."""
    tiny.steps, tiny.log_every, tiny.checkpoint.every, tiny.evaluate.every = 3, 1, 0, 2
    mesh, hooks = sharding.make_mesh(ONE, sharding.jax.devices()[:1]), sharing()

    def steps(kind):
        return [r["step"] for r in read_metrics(tmp_path / "run", kind)]

    with monkeypatch.context() as patch:
        patch.setattr(processes, "asked_to_stop", lambda: steps("train") == [1, 2])
        with pytest.raises(processes.Stopped, match="preempted: saved at step 2; run the same"):
            loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
    assert steps("eval") == [] and Checkpointer(tmp_path / "run", 1).latest() == 2

    evaluate = Perplexity.__call__

    def interrupted(self, trainable, frozen):
        if steps("train")[-1] == 3:
            raise KeyboardInterrupt
        return evaluate(self, trainable, frozen)

    with monkeypatch.context() as patch:
        patch.setattr(Perplexity, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):  # nobody watches for it
            loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
        patch.setattr(interrupts, "asked", lambda: True)
        with pytest.raises(processes.Stopped, match="saved at step 3; the same command resumes"):
            loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
    assert (steps("train"), steps("eval")) == ([1, 2, 3], [2])
    assert Checkpointer(tmp_path / "run", 1).latest() == 3
    with monkeypatch.context() as patch:  # killed while it is made up for
        patch.setattr(Perplexity, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
    assert (steps("train"), steps("eval")) == ([1, 2, 3], [2])
    capsys.readouterr()
    loop.run(tiny, tmp_path / "run", mesh, hooks=hooks)
    assert (steps("train"), steps("eval")) == ([1, 2, 3], [2, 3])
    assert "nothing to do" not in capsys.readouterr().out
