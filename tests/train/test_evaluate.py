"""Numbers that evaluation reports, worked out by hand."""

import math

import numpy as np
import pytest

from train.evaluate import overlap_accuracy, overlap_score, win_rate


def test_win_rate_and_its_interval_by_hand():
    """Wins 1, 1, 0, ½: mean 5/8; variance with n - 1 (2·9 + 25 + 1)/64/3 = 44/192."""
    rate, low, high = win_rate([3.0, 2.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    half = 1.96 * math.sqrt(44 / 192 / 4)
    np.testing.assert_allclose((rate, low, high), (0.625, 0.625 - half, 0.625 + half))


def test_win_rate_of_equals_and_of_always_winning():
    assert win_rate(np.ones(5), np.ones(5)) == (0.5, 0.5, 0.5)
    assert win_rate(np.ones(5), np.zeros(5)) == (1.0, 1.0, 1.0)


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
