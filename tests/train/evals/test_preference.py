"""Numbers that the evaluation of rankings reports, worked out by hand."""

import math

import numpy as np
import pytest

from train import losses
from train.evals.preference import overlap_accuracy, overlap_score, ranking_metrics, ranking_sums


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
    assert overlap_accuracy(examples) == {"a": (4, 5), "b": (0.5, 3)}
    assert overlap_accuracy([]) == {}


def test_ranking_metrics_by_hand():
    """Four pairs with margins 0.4, -0.4, 3 and 1.2, of kinds a, a, b and b."""
    scores = np.array([[0.4, 0.0], [0.0, 0.4], [3.0, 0.0], [1.2, 0.0]], np.float32)
    rank = np.tile([0, 1], (4, 1))
    batch = dict(rank=rank, group=0 * rank, kind=np.array([[2, 0], [2, 0], [2, 1], [2, 1]]))
    sums = ranking_sums(scores, batch, ("a", "b", "best"))
    got = ranking_metrics(sums)
    near, far, middle = (1 / (1 + math.exp(-x)) for x in (0.4, 3.0, 1.2))
    expected = {
        "margin": 4.2 / 4,
        "accuracy/a": 0.5,
        "accuracy/b": 1.0,
        "accuracy/overall": 0.75,
        "pairs/a": 2,
        "pairs/b": 2,
        "pairs/overall": 4,
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


def test_the_sign_of_a_score_ranks_a_single_answer():
    """Up, up, down and down; the last two candidates are a pair and count as one."""
    scores = np.array([[0.4, -1.0, -2.0, 3.0, 0.2, 0.1]], np.float32)
    rank, group = np.array([[0, 0, 1, 1, 0, 1]]), np.array([[0, 1, 2, 3, 4, 4]])
    batch = dict(rank=rank, group=group, kind=0 * rank)
    sums = ranking_sums(scores, batch, ("",))
    np.testing.assert_allclose(sums["accuracy/alone"], (2, 4))
    np.testing.assert_allclose(sums["accuracy/all"], (1, 1))
    np.testing.assert_allclose(losses.pair_metrics(scores, rank, group)["accuracy"], (3, 5))
