"""Measures over all answers, and which answers are the worst."""

import math

import numpy as np
import pytest
from sample_runs.replays import make
from scipy import stats

from train.evals.generative import win_rate
from train.replay.summary import regressions


def test_win_rates_are_those_of_training_and_ties_count_half():
    replay = make(30, wins=12, people=1.0)
    first, other = replay.checkpoints
    wanted = win_rate(first.values["reward"], other.values["reward"])
    assert replay.value("win_rate")[:3] == pytest.approx(wanted)
    assert replay.win_rate(other, first).value == pytest.approx(1 - wanted[0])
    assert replay.value("win_rate_people").value == 0.5
    # The checkpoint that is the hardest to beat counts.
    three = replay._replace(checkpoints=[first, other, other._replace(values=first.values)])
    assert three.value("win_rate").value == pytest.approx(min(0.5, wanted[0]))


def test_a_mean_and_its_interval_are_students_by_conversation():
    replay, rng = make(20), np.random.default_rng(0)
    lengths = rng.normal(20, size=20)
    replay.first.values["length"] = lengths
    value = replay.value("length")
    wanted = stats.t.interval(0.95, 19, lengths.mean(), stats.sem(lengths))
    assert (value.low, value.high) == pytest.approx(wanted)
    replay.first.values["copied"] = np.eye(1, 20)[0]
    assert replay.value("copied").low == 0  # no run of words has fewer than none
    # Two equal answers of each conversation say no more than one.
    turns = [turn._replace(conversation=i // 2) for i, turn in enumerate(replay.turns)]
    pairs = replay._replace(turns=turns)
    pairs.first.values["length"] = np.repeat(lengths[:10], 2)
    wanted = stats.t.interval(0.95, 9, lengths[:10].mean(), stats.sem(lengths[:10]))
    assert (
        pairs.value("length")[1:3] == pytest.approx(wanted)
        and pairs.value("length").conversations == 10
    )
    assert pairs.value("win_rate").conversations == 10


def test_what_no_answer_has_is_nan():
    assert math.isnan(make(4).value("refusals.harmful").value)
    assert make(4).value("refusals", category="b").conversations == 2


def test_faults_come_before_lower_scores():
    replay = make(6, wins=5, refused={3})
    order = regressions(replay)
    assert [r.turn for r in order[:2]] == [3, 5] and order[0].fault == "refusal"
    assert order[1].reason == "scores 1 lower" and order[-1].gap > 0
