"""Metrics and comparisons against scipy, enumeration, resampling and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from train.tasks import metrics
from train.tasks.base import Estimate, Part, Suite


def outcomes(**columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def resampled(statistic, *columns, draws=2000):
    """The standard deviation of a statistic over resampled items."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(columns[0]), size=(draws, len(columns[0])))
    return np.std([statistic(*(column[pick] for column in columns)) for pick in picks])


def test_a_mean_has_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).integers(0, 2, 40)
    value, stderr = metrics.mean("acc")(outcomes(acc=values))
    assert (value, stderr) == pytest.approx((values.mean(), stats.sem(values)))
    assert math.isnan(metrics.mean("acc")([{"acc": 1.0}]).stderr)
    assert math.isnan(metrics.mean("acc")([]).value)


def test_perplexities_and_their_standard_errors():
    rng = np.random.default_rng(1)
    losses, words = rng.uniform(1, 3, 200), rng.integers(1, 20, 200)
    rows = outcomes(loss=losses, words=words, bytes=words)
    value, stderr = metrics.perplexity(rows)
    assert value == pytest.approx(np.exp(losses.mean()))
    assert stderr == pytest.approx(resampled(lambda x: np.exp(x.mean()), losses), rel=0.1)
    value, stderr = metrics.perplexity_per("words")(rows)
    assert value == pytest.approx(np.exp(losses.sum() / words.sum()))
    spread = resampled(lambda x, n: np.exp(x.sum() / n.sum()), losses, words)
    assert stderr == pytest.approx(spread, rel=0.1)
    bits = metrics.bits_per_byte(rows).value
    assert bits == pytest.approx(losses.sum() / words.sum() / np.log(2))


def test_calibration_error_by_hand():
    """Two bins: of (0.5, 0.6] one right of two at 0.6; of (0.9, 1] two right at 0.95 and 1."""
    rows = outcomes(confidence=[0.6, 0.6, 0.95, 1.0], acc=[1, 0, 1, 1])
    assert metrics.calibration_error(rows).value == pytest.approx((2 * 0.1 + 2 * 0.025) / 4)


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 3, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples, passed, k):
    draws = [*itertools.combinations([1] * passed + [0] * (samples - passed), k)]
    share = sum(map(max, draws)) / len(draws)
    assert metrics.pass_at_k(samples, passed, k) == pytest.approx(share)
    rows = outcomes(samples=[samples] * 2, passed=[passed, 0])
    assert metrics.pass_at(k)(rows).value == pytest.approx(share / 2)
    with pytest.raises(ValueError, match="pass@9"):
        metrics.pass_at_k(samples, passed, 9)


def test_mcnemar_s_test_is_exact():
    """Eight items better, two worse, of 30: 2·(1 + 10 + 45)/2¹⁰."""
    a = dict.fromkeys(range(30), 1.0) | dict.fromkeys((8, 9), 0.0)
    b = dict.fromkeys(range(30), 1.0) | dict.fromkeys(range(8), 0.0) | {40: 1.0}
    result = metrics.paired(a, b)
    assert result.p == pytest.approx(2 * 56 / 1024)
    assert (result.difference, result.items, result.only) == (pytest.approx(0.2), 30, 1)
    assert metrics.paired(b, a).difference == pytest.approx(-0.2)
    difference, low, high, p = metrics.paired(a, a)[:4]
    assert (difference, p) == (0, 1) and low == pytest.approx(-high) and 0 < high < 0.5


@pytest.mark.parametrize(
    ("better", "worse", "count"), [(8, 2, 30), (3, 9, 40), (0, 0, 25), (5, 0, 5)]
)
def test_the_interval_of_paired_shares_inverts_the_score_test(better, worse, count):
    """At each end |z| is 1.96, with the nuisance share found by maximising the likelihood."""
    shares = [(1.0, 0.0)] * better + [(0.0, 1.0)] * worse + [(1.0, 1.0)] * (count - better - worse)
    a, b = (dict(enumerate(values)) for values in zip(*shares, strict=True))
    result = metrics.paired(a, b)

    def score(d):
        def loss(share):  # of the items that are worse
            terms = (better, share + d), (worse, share), (count - better - worse, 1 - d - 2 * share)
            return -sum(n * math.log(max(p, 1e-300)) for n, p in terms if n)

        bounds = (max(0.0, -d), (1 - d) / 2)
        share = optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x
        return (better - worse - count * d) / math.sqrt(count * (2 * share + d * (1 - d)))

    for end, z in ((result.low, 1.96), (result.high, -1.96)):
        if abs(end) < 1:
            assert score(end) == pytest.approx(z, abs=0.01)
    assert -1 <= result.low <= result.difference <= result.high <= 1
    assert result.low < result.high


def test_real_numbers_are_compared_by_student_s_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, 1, 20), rng.normal(0, 1, 20)
    result, expected = metrics.paired(dict(enumerate(x)), dict(enumerate(y))), stats.ttest_rel(x, y)
    interval = expected.confidence_interval()
    assert result[:4] == pytest.approx(
        ((x - y).mean(), interval.low, interval.high, expected.pvalue)
    )
    assert metrics.paired({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5})[:4] == (0, 0, 0, 1)


def test_a_suite_s_mean_by_hand():
    """(0.4 - 0.25)/0.75 = 0.2 and 0.3; the third part is not there."""
    parts = {"a": Part("x", 0, "acc", 0.25), "b": Part("x", 5, "acc", 0.0)}
    suite = Suite("s", "", parts | {"c": Part("y", 0, "acc", 0.5)}, "s")
    result = metrics.suite_mean(suite, {"a": Estimate(0.4, 0.03), "b": Estimate(0.3, 0.03)})
    assert result.estimate == pytest.approx((0.25, math.hypot(0.04, 0.03) / 2))
    assert result.centred == pytest.approx({"a": 0.2, "b": 0.3}) and result.missing == ["c"]
    assert math.isnan(metrics.suite_mean(suite, {}).estimate.value)
