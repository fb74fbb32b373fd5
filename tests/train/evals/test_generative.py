"""Numbers that the evaluation of answers reports, worked out by hand."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from model import sharding
from train.evals import generative
from train.evals.generative import rise, win_rate


def test_win_rate_has_wilson_s_interval():
    """Eight wins of ten: 49.02% to 94.33%, as tables of it have."""
    won = np.array([1] * 8 + [0] * 2)
    np.testing.assert_allclose(win_rate(won, 1 - won), (0.8, 0.49016, 0.94332), atol=1e-5)


def test_win_rate_with_ties_by_hand():
    """Wins 1, 1, 0, ½: each end is 1.96 standard errors from 5/8, by its own variance."""
    rate, *interval = win_rate([3.0, 2.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert rate == 0.625 and interval[0] < rate < interval[1]
    for end in interval:
        variance = end * (1 - end) - 0.25 / 4
        np.testing.assert_allclose(abs(rate - end), 1.96 * math.sqrt(variance / 4))


def test_win_rate_of_equals_and_of_always_winning():
    np.testing.assert_allclose(win_rate(np.ones(5), np.ones(5)), 0.5)
    rate, low, high = win_rate(np.ones(5), np.zeros(5))
    assert rate == 1 and high == pytest.approx(1) and high <= 1
    np.testing.assert_allclose(low, 5 / (5 + 1.96**2))
    rate, low, high = win_rate(np.zeros(5), np.ones(5))
    assert rate == 0 and low == pytest.approx(0) and low >= 0


def test_win_rate_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        rate, low, high = win_rate(*rng.integers(0, 5, (2, 200)))
        covered += low <= 0.5 <= high
    assert 0.92 < covered / 400 < 0.98


def test_a_rise_by_hand():
    """Differences 0, 0.2, 0.1, 0.1: the mean and 1.96 standard errors around it."""
    low, high = rise([0.1, 0.3, 0.2, 0.5], [0.1, 0.1, 0.1, 0.4])
    half = 1.96 * math.sqrt((0.01 + 0.01) / 3 / 4)
    np.testing.assert_allclose((low, high), (0.1 - half, 0.1 + half))
    assert rise([0.2], [0.1]) == pytest.approx((0.1, 0.1))


def test_a_text_is_cut_if_its_last_token_does_not_end_it(monkeypatch):
    """An answer has at most three tokens, and token 9 ends it."""
    tokens = np.array([[0] * 16 + row for row in ([1, 2, 3], [1, 2, 9], [1, 9, 0], [1, 2, 0])])
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]], bool)
    sample = SimpleNamespace(tokens=tokens, response_mask=mask)
    tokenizer = SimpleNamespace(stop_ids=(9,), banned_ids=(), pad_id=0, decode=str)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    ctx = SimpleNamespace(tokenizer=tokenizer, models={"policy": None}, mesh=mesh)
    sampler = generative.TextSampler(ctx, 3)
    monkeypatch.setattr(sampler, "_generate", lambda *_: sample)
    texts = sampler({}, [np.array([5])] * 4)
    assert [text.cut for text in texts] == [True, False, False, False]
    assert texts[2].text == "[1 9]"
