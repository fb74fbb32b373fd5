"""Optuna's search: seeded, resumed by the results that there are, with runs that are given up."""

import functools
import json

import pytest
from sample_runs import sweep_runs

from train.sweep import command, inputs, runner
from train.terminal.console import console

pytest.importorskip("optuna", reason="pip install optuna")
FLAGS = {
    "search": "optuna", "log_uniform": ["optimizer.peak_lr=1e-5:1"],
    "grid": ["optimizer.name=adamw,muon"], "trials": 14,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(
        inputs, "prepare", lambda runs: {inputs.key(r.config): r.workdir for r in runs}
    )
    monkeypatch.setattr(runner.loop, "run", sweep_runs.pretend)


def search(workdir):
    workdir.mkdir(exist_ok=True)
    recipe = sweep_runs.default()
    recipe.steps, recipe.evaluate.every = 4, 2
    with console.capture() as printed:
        code = command.run(sweep_runs.asked(workdir, recipe, **FLAGS))
    assert code == 0, printed.get()
    return printed.get(), (workdir / "sweep.json").read_text()


def test_a_search_gives_up_what_falls_behind_and_nears_the_optimum(tmp_path):
    printed, text = search(tmp_path / "runs")
    trials = json.loads(text)["trials"]
    states = [t["seeds"]["0"]["status"] for t in trials]
    assert states.count("pruned") >= 2 and "pruned" in printed
    pruned = next(t for t in trials if t["seeds"]["0"]["status"] == "pruned")
    assert [step for step, _ in pruned["seeds"]["0"]["curve"]] == [0, 2]
    assert trials[0]["settings"]["optimizer.name"] == "muon"
    assert 1e-3 < trials[0]["settings"]["optimizer.peak_lr"] < 1e-1


@pytest.mark.slow
def test_interrupted_it_asks_for_the_same_trials(tmp_path, monkeypatch):
    _, whole = search(tmp_path / "whole")
    calls = []

    def fails(config, step):
        calls.append(step)
        if len(calls) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.loop, "run", functools.partial(sweep_runs.pretend, fails=fails))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed")
    assert search(tmp_path / "killed")[1] == whole
