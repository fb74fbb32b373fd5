"""The points that flags name, and what is refused before anything runs."""

import pytest
from sample_runs import sweep_runs

from ranges import ConfigError
from train.sweep import grid


def names(sweep):
    return [trial.name for trial in sweep.trials]


def test_grids_are_combined_lists_are_zipped_and_names_do_not_depend_on_how_it_is_typed(tmp_path):
    sweep = sweep_runs.asked(
        tmp_path,
        grid=["optimizer.peak_lr=1e-2,3e-3"],
        zip=["optimizer.name=muon,adamw", "optimizer.weight_decay=0.0,0.1"],
    )
    assert names(sweep) == [
        "name=muon,peak_lr=0.01,weight_decay=0.0",
        "name=adamw,peak_lr=0.01,weight_decay=0.1",
        "name=muon,peak_lr=0.003,weight_decay=0.0",
        "name=adamw,peak_lr=0.003,weight_decay=0.1",
    ]
    other = sweep_runs.asked(
        tmp_path, grid=["optimizer.name=muon", "optimizer.weight_decay=0.0",
                        "optimizer.peak_lr=0.01"],
    )  # fmt: skip
    assert names(other) == names(sweep)[:1]
    (critic,) = sweep_runs.asked(tmp_path, grid=["value_optimizer.peak_lr=1e-3"], seeds=2).trials
    assert critic.name == "value_optimizer.peak_lr=0.001"


def test_draws_are_seeded_within_bounds_and_the_first_of_more_are_the_same():
    def points(trials, seed=0):
        flags = {"log_uniform": ["a=1e-4:1e-2"], "random": ["b=10:20"]}
        flags = sweep_runs.FLAGS | flags | {"trials": trials, "seed": seed}
        return list(grid.space(flags).points({"a": False, "b": True}))

    many = points(200)
    assert points(5) == many[:5] != points(5, seed=1)
    rates = [float(point["a"]) for point in many]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 80 < sum(rate < 1e-3 for rate in rates) < 120  # half of them, by the logarithm
    assert {int(point["b"]) for point in many} == set(range(10, 21))


def test_values_may_have_commas_in_brackets():
    assert grid.split_values("a,(1,2),'x,y',[3]") == ["a", "(1,2)", "'x,y'", "[3]"]
    assert grid.split_values("a,,b,") == ["a", "", "b", ""]


def test_averages_are_compared_where_every_trial_keeps_them(tmp_path):
    sweep = sweep_runs.asked(tmp_path, grid=["optimizer.ema=0.9,0.99"], metric="eval/ema/loss")
    assert sweep.metric == ("ema/loss", True, "nats a token", "") and len(sweep.trials) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"grid": ["optimizer.peek_lr=1,2"]}, "unknown config key.*did you mean optimizer.peak_lr"),
        ({"grid": ["optimizer.peak_lr=1e-3,fast"]}, "peak_lr.*must be a float"),
        ({"grid": ["optimizer.peak_lr=1e-3,99"]}, "peak_lr=99.*at most 10"),
        ({"grid": ["optimizer.peak_lr=1,2"], "zip": ["optimizer.peak_lr=1"]}, "varied 2 times"),
        ({"grid": ["optimizer.peak_lr="]}, "names no values; type --grid=optimizer"),
        ({"grid": ["optimizer.peak_lr=1e-3,"]}, "has an empty value"),
        ({"grid": ["optimizer.peak_lr=1e-3,0.001"]}, "peak_lr=0.001 is there twice"),
        ({"grid": ["seed=1,2"]}, "type --seeds=3"),
        ({}, "nothing to compare; type --grid"),
        ({"zip": ["steps=1,2", "log_every=1"]}, "differ in length: 2 of steps, 1 of log_every"),
        ({"random": ["optimizer.peak_lr=0:1"]}, "--trials is missing"),
        ({"grid": ["steps=1,2"], "trials": 3}, "nothing is drawn"),
        ({"log_uniform": ["optimizer.peak_lr=0:1"], "trials": 1}, "LOW must be above 0"),
        ({"random": ["optimizer.name=a:b"], "trials": 1}, "write KEY=LOW:HIGH"),
        ({"random": ["optimizer.name=0:1"], "trials": 1}, "optimizer.name"),
        ({"random": ["optimizer.peak_lr=1:99"], "trials": 1}, "peak_lr=99"),
        ({"seeds": 2, "metric": "eval/los"}, "have eval/loss, eval/bits_per_byte; did you mean"),
        (
            {"grid": ["optimizer.ema=0.9,0"], "metric": "eval/ema/loss"},
            "of ema=0.0 have eval/loss, .*; averages of the weights need optimizer.ema",
        ),
        ({"grid": ["optimizer.ema=0.9,0.99"]}, "is the same in all runs; type --metric=eval/ema/l"),
        ({"search": "optuna", "trials": 2}, "nothing to choose"),
        ({"search": "optuna", "trials": 2, "parallel": 2, "grid": ["steps=1,2"]}, "--parallel"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        sweep_runs.asked(tmp_path / "runs", **flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
