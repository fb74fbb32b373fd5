"""Sweeps of pretended runs: order, failures, interruption, other grids, the files at the end."""

import functools
import json

import pytest
from etils import epath
from sample_runs import sweep_runs

from ranges import ConfigError
from train.runtime import processes
from train.sweep import command, inputs, programs, results, runner
from train.terminal.console import console

GRID = {"grid": ["optimizer.peak_lr=1e-3,1e-2", "optimizer.name=adamw,muon"], "seeds": 2}
FILES = ("table.md", "sweep.json", "sweep.html")


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(
        inputs, "prepare", lambda runs: {inputs.key(r.config): r.workdir for r in runs}
    )
    monkeypatch.setattr(runner.loop, "run", sweep_runs.pretend)


def sweep(workdir, **flags):
    workdir.mkdir(exist_ok=True)
    with console.capture() as printed:
        code = command.run(sweep_runs.asked(workdir, **(flags or GRID)))
    return code, printed.get()


def contents(workdir):
    return [(workdir / name).read_text().replace(workdir.name, "NAME") for name in FILES]


def failing(monkeypatch, error, when):
    """Makes pretended runs raise, where when(config, step, number of the call) is true."""
    calls = []

    def fails(config, step):
        calls.append((config, step))
        if when(config, step, len(calls)):
            raise error

    run = functools.partial(sweep_runs.pretend, fails=fails)
    monkeypatch.setattr(runner.loop, "run", run)


def test_a_sweep_ends_with_a_table_a_page_and_a_verdict(tmp_path):
    code, printed = sweep(tmp_path / "runs")
    assert code == 0
    assert "8 runs, 2 programs: name changes the program, peak_lr does not" in printed
    assert "▸ 3/8 name=muon,peak_lr=0.001 seed 0" in printed
    assert "✓ 8/8 name=muon,peak_lr=0.01 seed 1: eval/loss 2.6100" in printed
    assert "muon at peak_lr 0.01 is better than adamw at peak_lr 0.01 by 0.4" in printed
    data = json.loads((tmp_path / "runs/sweep.json").read_text())
    assert data["trials"][0]["name"] == "name=muon,peak_lr=0.01"
    assert data["trials"][0]["seeds"]["1"]["curve"] == [[0, 5.01], [2, 3.81], [4, 2.61]]
    assert (
        "| `name=muon,peak_lr=0.01` | 2/2 | 2.6050 ± 0.0071 |"
        in (tmp_path / "runs/table.md").read_text()
    )
    page = (tmp_path / "runs/sweep.html").read_text()
    assert page.count("<polygon") == 4 and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("at", [2, 9, 14])
def test_killed_and_started_again_it_ends_with_the_same_bytes(at, tmp_path, monkeypatch):
    sweep(tmp_path / "whole")
    failing(monkeypatch, KeyboardInterrupt(), lambda config, step, call: call == at)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "killed")
    finished = (at - 1) // len(sweep_runs.STEPS)
    code, printed = sweep(tmp_path / "killed")
    assert code == 0 and printed.count("▸") == 8 - finished  # what has ended is not run again
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_fails_is_passed_over_counted_and_tried_again_but_not_what_diverged(
    tmp_path, monkeypatch
):
    def is_bad(config, step, call):
        return config.optimizer.peak_lr == 1e-2 and step == 2 and config.optimizer.name == "muon"

    failing(monkeypatch, FloatingPointError("12 updates were not finite"), is_bad)
    code, printed = sweep(tmp_path / "runs")
    assert code == 1
    assert "✗ 7/8 name=muon,peak_lr=0.01 seed 0: diverged: 12 updates were not finite" in printed
    assert "2 runs failed or diverged, so the exit code is 1" in printed
    assert "2 of 2 diverged" in (tmp_path / "runs/table.md").read_text()
    monkeypatch.setattr(runner.loop, "run", sweep_runs.pretend)
    code, printed = sweep(tmp_path / "runs")
    assert code == 1 and "▸" not in printed

    failing(monkeypatch, RuntimeError("no room\nat all"), is_bad)
    code, printed = sweep(tmp_path / "other")
    assert code == 1 and "seed 1: failed: RuntimeError: no room" in printed
    monkeypatch.setattr(runner.loop, "run", sweep_runs.pretend)
    code, printed = sweep(tmp_path / "other")
    assert code == 0 and printed.count("▸") == 2


def test_a_run_that_is_asked_to_stop_stops_the_sweep(tmp_path, monkeypatch):
    failing(monkeypatch, processes.Stopped("saved"), lambda config, step, call: call == 4)
    with pytest.raises(processes.Stopped):
        sweep(tmp_path / "runs")
    assert (tmp_path / "runs/table.md").exists()


def test_another_grid_adds_trials_and_other_settings_are_refused(tmp_path):
    sweep(tmp_path / "runs")
    code, printed = sweep(tmp_path / "runs", grid=["optimizer.peak_lr=3e-2"], seeds=2)
    assert code == 0 and printed.count("▸") == 2
    assert len(json.loads((tmp_path / "runs/sweep.json").read_text())["trials"]) == 5
    recipe = sweep_runs.default()
    recipe.optimizer.weight_decay = 0.2
    with pytest.raises(ConfigError, match=r"optimizer.weight_decay: 0.1 -> 0.2.*new --workdir"):
        command.run(sweep_runs.asked(tmp_path / "runs", recipe, **GRID))


def test_a_metric_that_no_evaluation_has_is_said_after_the_first_run(tmp_path):
    recipe = sweep_runs.default()
    recipe.evals = {"wiki": {"type": "perplexity", "source": "x.txt"}}
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="it has eval/loss, eval/bits_per_byte"):
        command.run(sweep_runs.asked(tmp_path / "runs", recipe, metric="eval/wiki/loss", **GRID))


def test_a_value_that_is_not_finite_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_runs, "loss", lambda config, step: None if step else 5.0)
    code, printed = sweep(tmp_path / "runs", seeds=2)
    assert code == 1 and "eval/loss at its end is missing or not finite" in printed
    assert results.read_outcome(epath.Path(tmp_path / "runs/recipe/seed0"))["status"] == "finished"


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_fits_the_terminal(width, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "_width", width)
    _, printed = sweep(tmp_path / "runs")
    lines = printed.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("trial"))
    rows = lines[start : lines.index("", start)]
    assert max(map(len, rows)) <= width and len(rows) >= 5
    assert ("seeds" in rows[0]) == (width == 120)


def test_a_cycle_of_the_learning_rate_shares_the_program_and_a_ramp_does_not():
    shared = ["optimizer.peak_lr", "optimizer.cycles.100", "value_optimizer.cycles.9", "seed"]
    own = ["optimizer.lr_multipliers.hidden", "optimizer.name", "data.batch_ramp.5", "model.size"]
    assert [programs.is_shared(key) for key in shared + own] == [True] * 4 + [False] * 4
