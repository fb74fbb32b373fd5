"""Metrics of benchmarks over the outcomes of all items, with standard errors; comparisons of runs.

Standard errors treat the items as a sample: of a mean the sample's standard deviation over √n, as
in lm-evaluation-harness; of a function of means the delta method.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.tasks.base import Estimate, Metric, Outcome, Suite

WHITE_SPACE = re.compile(r"\s+")
BINS = 10  # of the calibration error
Z = 1.959963984540054  # of 95% intervals


def column(outcomes: Sequence[Outcome], item: str) -> np.ndarray:
    """One number of each outcome that has it, [n] float64."""
    return np.array([outcome[item] for outcome in outcomes if item in outcome], np.float64)


def mean_of(values: np.ndarray) -> Estimate:
    """The mean and its standard error; NaN for fewer than two values, or one."""
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan)
    stderr = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()), stderr)


def mean(item: str, higher_is_better: bool = True) -> Metric:
    """The mean of one number of the items."""
    return Metric(lambda outcomes: mean_of(column(outcomes, item)), item, higher_is_better)


def perplexity(outcomes: Sequence[Outcome]) -> Estimate:
    """exp of the mean of `loss`; the standard error by the delta method."""
    value, stderr = mean_of(column(outcomes, "loss"))
    return Estimate(_exp(value), _exp(value) * stderr)


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """Σa/Σb and its standard error by the delta method (Cochran 1977, §6.4)."""
    count, total = len(numerators), float(denominators.sum())
    if not count or not total:
        return Estimate(math.nan, math.nan)
    value = float(numerators.sum()) / total
    if count < 2:
        return Estimate(value, math.nan)
    residuals = numerators - value * denominators
    return Estimate(value, math.sqrt(count / (count - 1) * float(residuals @ residuals)) / total)


def perplexity_per(unit: str) -> Callable[[Sequence[Outcome]], Estimate]:
    """exp(Σ loss / Σ units), of `words` or `bytes`."""

    def estimate(outcomes: Sequence[Outcome]) -> Estimate:
        value, stderr = ratio(column(outcomes, "loss"), column(outcomes, unit))
        return Estimate(_exp(value), _exp(value) * stderr)

    return estimate


def bits_per_byte(outcomes: Sequence[Outcome]) -> Estimate:
    """Σ loss in bits / Σ bytes."""
    return ratio(column(outcomes, "loss") / math.log(2), column(outcomes, "bytes"))


def calibration_error(outcomes: Sequence[Outcome]) -> Estimate:
    """The expected calibration error: over BINS bins of equal width of the confidence, the mean
    of |accuracy - confidence| weighted by the bin's share (Guo et al. 2017, arXiv:1706.04599).
    It has no standard error."""
    confidence, correct = column(outcomes, "confidence"), column(outcomes, "acc")
    if not len(confidence):
        return Estimate(math.nan, math.nan)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (low, high]
    gaps = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return Estimate(float(np.abs(gaps).sum() / len(confidence)), math.nan)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that of k of the samples, drawn without replacement, one passed: the unbiased
    estimate of pass@k (Chen et al. 2021, arXiv:2107.03374)."""
    if k > samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def pass_at(k: int) -> Callable[[Sequence[Outcome]], Estimate]:
    """pass@k over items with `samples` and `passed`."""

    def estimate(outcomes: Sequence[Outcome]) -> Estimate:
        return mean_of(np.array([pass_at_k(o["samples"], o["passed"], k) for o in outcomes]))

    return estimate


def centred(value: float, chance: float) -> float:
    """(value - chance)/(1 - chance): 0 for random answers, 1 for right ones."""
    return (value - chance) / (1 - chance)


class Paired(NamedTuple):
    """A comparison of two runs on the same items.

    Attributes:
      difference: the mean of a - b. low, high: its 95% interval. p: two-sided. items: their number.
      only: items that one of the two lacks, which are left out.
    """

    difference: float
    low: float
    high: float
    p: float
    items: int
    only: int


def paired(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> Paired:
    """The difference of two runs, {item: value}, on the items that both have.

    Where all values are 0 or 1, p is the exact test of McNemar (1947) and the interval that of a
    difference of paired shares by scores (Tango 1998, Stat. Med. 17:891); else both are Student's
    for the items' differences.
    """
    from scipy import stats  # slow to import

    items = [item for item in a if item in b]
    only = len(a) + len(b) - 2 * len(items)
    x, y = (np.array([float(run[item]) for item in items]) for run in (a, b))
    if not items:
        return Paired(math.nan, math.nan, math.nan, math.nan, 0, only)
    difference = x - y
    mean = float(difference.mean())
    if np.isin(x, (0.0, 1.0)).all() and np.isin(y, (0.0, 1.0)).all():
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
        low, high = _score_interval(better, worse, len(items))
        return Paired(mean, low, high, p, len(items), only)
    if len(items) < 2:
        return Paired(mean, math.nan, math.nan, math.nan, len(items), only)
    stderr = float(difference.std(ddof=1)) / math.sqrt(len(items))
    if stderr == 0:
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(items), only)
    half = float(stats.t.ppf(0.975, len(items) - 1)) * stderr
    p = 2 * float(stats.t.sf(abs(mean) / stderr, len(items) - 1))
    return Paired(mean, mean - half, mean + half, p, len(items), only)


def _score_interval(better: int, worse: int, count: int) -> tuple[float, float]:
    """The differences d with |z(d)| ≤ 1.96 for Tango's score z of `better` and `worse` pairs."""

    def score(d: float) -> float:
        # The share of worse pairs of largest likelihood for a difference d.
        linear, constant = -better - worse + (2 * count - better + worse) * d, -worse * d * (1 - d)
        root = math.sqrt(max(linear * linear - 8 * count * constant, 0.0))
        share = (root - linear) / (4 * count)
        variance = count * (2 * share + d * (1 - d))
        excess = better - worse - count * d
        if variance > 0:
            return excess / math.sqrt(variance)
        return math.copysign(math.inf, excess) if excess else 0.0

    from scipy import optimize

    middle = (better - worse) / count
    ends = []
    for end, z in ((-1.0, Z), (1.0, -Z)):
        inside = abs(middle - end) > 1e-12
        edge = end * (1 - 1e-12)
        if not inside or (score(edge) - z) * (score(middle) - z) >= 0:
            ends.append(end)
        else:
            ends.append(float(optimize.brentq(lambda d, z=z: score(d) - z, edge, middle)))
    return ends[0], ends[1]


class SuiteMean(NamedTuple):
    """The number of a suite.

    Attributes:
      estimate: the mean of the centred values of the parts that there are.
      centred: {part: its value}. missing: the names of the other parts.
    """

    estimate: Estimate
    centred: dict[str, float]
    missing: list[str]


def suite_mean(suite: Suite, values: Mapping[str, Estimate]) -> SuiteMean:
    """The mean of a suite's parts.

    Args:
      values: {part: the estimate of its metric}, of the parts that there are.
    """
    parts = {name: part for name, part in suite.parts.items() if name in values}
    values_of = {name: centred(values[name].value, part.chance) for name, part in parts.items()}
    missing = [name for name in suite.parts if name not in parts]
    if not parts:
        return SuiteMean(Estimate(math.nan, math.nan), {}, missing)
    # The parts are different tasks, so their errors are independent.
    errors = [values[name].stderr / (1 - part.chance) for name, part in parts.items()]
    stderr = math.sqrt(sum(error**2 for error in errors)) / len(parts)
    mean = sum(values_of.values()) / len(parts)
    return SuiteMean(Estimate(mean, stderr), values_of, missing)
