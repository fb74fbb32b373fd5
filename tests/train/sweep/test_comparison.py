"""Paired differences and the verdict: against values computed by hand."""

import math

import pytest
from sample_runs.sweep_runs import LOSS, result

from train.sweep import comparison
from train.sweep.metric import Metric
from train.sweep.report import table


def rate(value, *finals):
    return result(dict(enumerate(finals)), peak_lr=value)


def test_an_interval_is_that_of_students_t_over_the_pairs():
    # Differences 0.6, 0.7, 0.8: mean 0.7, standard error 0.1/√3; t(0.975, 2) = 4.302653.
    better = result({0: 3.0, 1: 3.1, 2: 3.2}, name="muon", peak_lr=0.01)
    worse = result({0: 3.6, 1: 3.8, 2: 4.0}, name="adamw", peak_lr=0.003)
    test = comparison.difference(worse, better)
    assert test.difference == pytest.approx(0.7)
    assert comparison.half_width(test) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert comparison.sentence(better, worse, LOSS) == (
        "muon at peak_lr 0.01 is better than adamw at peak_lr 0.003 by 0.70 ± 0.25 nats a token "
        "(95% interval over 3 seeds)"
    )
    assert [row.verdict for row in comparison.compare([better, worse])] == ["best", "worse"]


def test_a_difference_within_the_spread_of_seeds_is_none():
    lines = comparison.verdict([rate(0.01, 3.0, 3.4, 3.1), rate(0.003, 3.3, 3.0, 3.3)], LOSS)
    assert lines[0].startswith("no difference beyond the seeds' spread between peak_lr 0.01 and")
    rows = comparison.compare([rate(0.01, 3.0, 3.4), rate(0.003, 3.3, 3.2)])
    assert rows[1].verdict == comparison.SAME


def test_one_seed_says_nothing_about_chance():
    rows = [rate(0.01, 1.0), rate(0.003, 0.0)]  # also for numbers that a test of shares would take
    higher = Metric("score", False)
    assert comparison.compare(rows)[1].verdict == comparison.ONE_SEED
    (first, *_) = comparison.verdict(rows, higher)
    assert first == (
        "peak_lr 0.01 ended 1 better than peak_lr 0.003 with one seed, which says nothing about "
        "chance: --seeds=3 would"
    )


def test_the_verdict_compares_choices_at_their_best_and_names_edges_and_failures():
    def trial(name, peak, *finals):
        return result(dict(enumerate(finals)), name=name, peak_lr=peak)

    rows = [
        trial("muon", 0.01, 3.0, 3.1), trial("muon", 0.003, 3.2, 3.31),
        trial("adamw", 0.003, 3.7, 3.81), trial("adamw", 0.01, 4.0, 4.3),
        trial("adamw", 0.1, 2.0, None),
    ]  # fmt: skip
    lines = comparison.verdict(rows, LOSS)
    assert lines[0].startswith(
        "muon at peak_lr 0.01 is better than adamw at peak_lr 0.003 by 0.705 ± 0.064"
    )
    assert "muon at peak_lr 0.003" in lines[1]
    assert lines[2] == (
        "the best peak_lr, 0.01, is the largest of the sweep: a larger one may be better"
    )
    assert lines[3] == "1 trial is left out, as not all runs finished"
    assert comparison.compare(rows)[-1].verdict == comparison.NOTHING
    assert table.failures(rows) == {"name=adamw,peak_lr=0.1 seed 1": "diverged: not finite"}


def test_nothing_finished():
    assert "nothing to compare" in comparison.verdict([rate(0.1, None)], LOSS)[0]
