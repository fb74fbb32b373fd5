"""Numbers that evaluation reports, worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from train import losses
from train.evals import evaluators
from train.evals.evaluators import (
    overlap_accuracy,
    overlap_score,
    ranking_metrics,
    ranking_sums,
    win_rate,
)


def test_bytes_are_weighed_as_the_loss_weighs_their_tokens(monkeypatch):
    """Three nats a token, so bits per byte are 3/ln 2 by the weighted mean length."""

    class Nothing:
        hidden = None

        def __init__(self, config):
            pass

        def apply(self, *args, **named):
            return None, None

    def loss(config, params, hidden, batch, z_loss, chunk):
        weight = batch["loss_mask"].sum()
        return 3 * weight, 3 * weight, weight

    monkeypatch.setattr(evaluators, "Transformer", Nothing)
    monkeypatch.setattr(evaluators.vocabulary, "next_token_loss", loss)
    settings = SimpleNamespace(evaluate=SimpleNamespace(samples=0), loss=SimpleNamespace(chunk=0))
    ctx = SimpleNamespace(
        config=settings,
        models={"policy": SimpleNamespace(padded_vocab_size=8)},
        tokenizer=SimpleNamespace(token_bytes=[b"", b"a", b"bb", b"cccc"]),
    )
    ids = np.array([[0, 1, 2, 3]])
    batch = dict(tokens=ids, positions=ids, segment_ids=ids, loss_mask=[[0, 0.5, 2.0, 0.25]])
    batch = {name: np.asarray(x, np.float32 if name == "loss_mask" else np.int32)
             for name, x in batch.items()}  # fmt: skip
    sums = evaluators.NextTokenEvaluator(ctx)._sums({}, batch)
    np.testing.assert_allclose(sums["loss"], (3 * 2.75, 2.75))
    size = 0.5 * 1 + 2 * 2 + 0.25 * 4
    np.testing.assert_allclose(sums["bits_per_byte"], (3 * 2.75 / math.log(2), size), rtol=1e-6)


def test_win_rate_has_wilson_s_interval():
    """Eight wins of ten: 49.02% to 94.33%, as tables of it have."""
    won = np.array([1] * 8 + [0] * 2)
    np.testing.assert_allclose(win_rate(won, 1 - won), (0.8, 0.49016, 0.94332), atol=1e-5)


def test_win_rate_with_ties_by_hand():
    """Wins 1, 1, 0, ½: each end is 1.96 standard errors from 5/8, by its own variance."""
    rate, *ends = win_rate([3.0, 2.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert rate == 0.625 and ends[0] < rate < ends[1]
    for end in ends:
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


@pytest.mark.parametrize(
    "prompt,response,score",
    [
        ("What does shutil.copytree do?", "It copies a tree.", 0.0),
        ("What does `shutil.copytree` do?", "copytree does copies", 2 / 3),
        ("read read", "READ, read!", 1.0),  # words count once
        ("os_path.join", "join os path", 1.0),
        ("anything", "", 0.0),
        ("anything", "?!", 0.0),
    ],
)
def test_overlap_score(prompt, response, score):
    np.testing.assert_allclose(overlap_score(prompt, response), score)


def test_overlap_accuracy_counts_pairs_by_the_kind_of_the_worse():
    def example(responses, rank, kinds):
        messages = [{"role": "user", "content": "red green blue"}]
        return dict(messages=messages, responses=responses, rank=rank, kinds=kinds)

    examples = [
        example(["red", "no"], [0, 1], ["chosen", "a"]),  # right
        example(["no", "red", "nothing"], [0, 1, 1], ["chosen", "a", "b"]),  # wrong, tie
        example(["red", "green no", "none", "red"], [1, 0, 2, 1], ["b", "chosen", "a", "b"]),
        # of the last: green no > red wrong twice (b), > none right (a), red > none right twice (a)
    ]
    assert overlap_accuracy(examples) == {"a": 4 / 5, "b": 0.5 / 3}
    assert overlap_accuracy([]) == {}


def test_ranking_metrics_by_hand():
    """Four pairs with margins 0.4, -0.4, 3 and 1.2, of kinds a, a, b and b."""
    scores = np.array([[0.4, 0.0], [0.0, 0.4], [3.0, 0.0], [1.2, 0.0]], np.float32)
    rank = np.tile([0, 1], (4, 1))
    batch = dict(rank=rank, group=0 * rank, kind=np.array([[2, 0], [2, 0], [2, 1], [2, 1]]))
    sums = ranking_sums(scores, batch, ("a", "b", "best"))
    got = ranking_metrics({k: float(s / w) for k, (s, w) in sums.items() if w})
    near, far, middle = (1 / (1 + math.exp(-x)) for x in (0.4, 3.0, 1.2))
    expected = {
        "margin": 4.2 / 4,
        "accuracy/a": 0.5,
        "accuracy/b": 1.0,
        "accuracy/overall": 0.75,
        "accuracy_by_margin/0-0.5": 0.5,
        "accuracy_by_margin/1-2": 1.0,
        "accuracy_by_margin/2-inf": 1.0,
        # The two of one bin: one right, at a confidence of `near` each.
        "calibration_error": (abs(1 - 2 * near) + (1 - far) + (1 - middle)) / 4,
    }
    assert not sums["accuracy/alone"][1]
    loss = np.mean([math.log1p(math.exp(-x)) for x in (0.4, -0.4, 3, 1.2)])
    assert got.keys() == expected.keys() | {"loss"}
    for name, value in (expected | {"loss": loss}).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_answers_alone_are_told_right_by_their_sign():
    """Up, up, down and down; the last two candidates are a pair and count as one."""
    scores = np.array([[0.4, -1.0, -2.0, 3.0, 0.2, 0.1]], np.float32)
    rank, group = np.array([[0, 0, 1, 1, 0, 1]]), np.array([[0, 1, 2, 3, 4, 4]])
    batch = dict(rank=rank, group=group, kind=0 * rank)
    sums = ranking_sums(scores, batch, ("",))
    np.testing.assert_allclose(sums["accuracy/alone"], (2, 4))
    np.testing.assert_allclose(sums["accuracy/all"], (1, 1))
    np.testing.assert_allclose(losses.pair_metrics(scores, rank, group)["accuracy"], (3, 5))
