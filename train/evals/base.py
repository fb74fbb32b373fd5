"""The parts that evaluations share: their type, their settings, means over held-out rows.

An evaluation is a function `(trainable, frozen) -> (metrics, samples)`: metrics are floats over all
of its held-out rows, samples are dicts of text for samples.jsonl. Random draws use fixed keys, so
two evaluations of the same weights agree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import jax
import numpy as np

import ranges
from data.loader import heldout_batches
from data.pipeline import Data
from data.rows import num_rows
from model import sharding
from ranges import CountOr0, Range
from train.terminal.progress import phase

SEED = 20_240  # of evaluations, whatever the run's seed, so that runs are comparable

# (trainable, frozen) -> (metrics, samples)
Evaluation = Callable[[Mapping, Mapping], tuple[dict[str, float], list[dict]]]


class Fingerprinted(Protocol):
    """Data of an evaluation."""

    def fingerprint(self) -> str:
        """A hash of its content, which checkpoints hold."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """An evaluation in addition to the stage's own, an entry of `config.evals`. Its metrics are
    logged as `NAME/metric`; its samples carry its name as `eval`.

    Attributes:
      type: a row of train/evals/registry.py.
      source: held-out data, as in `data.source`; empty for the run's own held-out split. fields,
        documents: as in `data`.
      schema: the source's, for a type that reads several; empty for the type's first.
      every: steps between evaluations; 0 for `evaluate.every`.
      limit: the most examples to use; 0 uses all.
      length: tokens per row; 0 for that of the run's held-out rows.
    """

    type: str = ""
    source: str | tuple[str, ...] = ""
    schema: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    documents: str = "line"
    every: CountOr0 = 0
    limit: CountOr0 = 0
    length: Annotated[int, Range(2, 2**24, also=0)] = 0

    def __post_init__(self):
        ranges.check(self)


def mean_over_heldout(
    ctx: Any, data: Data, sums: Callable[..., Mapping[str, tuple]], *args: Any
) -> dict[str, float]:
    """{metric: mean over a data set's held-out rows}. Arguments: see `sum_over_heldout`."""
    return means(sum_over_heldout(ctx, data, sums, *args))


def means(totals: Mapping[str, Any]) -> dict[str, float]:
    """{metric: (sum, weight)} -> {metric: mean}, without those of weight 0."""
    return {name: float(s / w) for name, (s, w) in totals.items() if w}


def sum_over_heldout(
    ctx: Any, data: Data, sums: Callable[..., Mapping[str, tuple]], *args: Any
) -> dict[str, np.ndarray]:
    """{metric: (sum, weight)} over a data set's held-out rows.

    Args:
      sums: (*args, batch) -> {metric: (sum, weight)}.
    """
    totals: dict[str, np.ndarray] = {}
    size, count = ctx.config.data.batch_size, num_rows(data.heldout)
    local = sharding.local_rows(ctx.mesh, size)
    with phase("evaluating", count) as progress:
        for number, batch in enumerate(heldout_batches(data.heldout, size, local), 1):
            pairs = jax.device_get(sums(*args, sharding.put_batch(batch, ctx.mesh)))
            for name, pair in pairs.items():
                totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)
            progress.count(min(number * size, count))
    return totals


def interval(rate: float, count: float, ties: float = 0.0) -> tuple[float, float]:
    """The 95% interval of a share of `count` trials, of which a share `ties` counted half.

    Wilson's interval (1927): the rates μ with (rate - μ)² ≤ 1.96²·variance(μ)/n. With a share t of
    ties the variance is μ(1 - μ) - t/4.
    """
    k = 1.96**2 / count
    middle = (rate + k / 2) / (1 + k)
    inside = k * (4 * rate * (1 - rate) - ties) + k * k * (1 - ties)
    half = math.sqrt(max(inside, 0.0)) / (2 * (1 + k))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def evenly_spaced(size: int, count: int) -> list[int]:
    """min(count, size) indices, evenly spaced over range(size)."""
    count = min(count, size)
    return [i * size // count for i in range(count)]


def combined(*evaluations: Evaluation) -> Evaluation:
    """One evaluation with the metrics and samples of several."""

    def evaluate(trainable, frozen):
        metrics: dict[str, float] = {}
        samples: list[dict] = []
        for evaluation in evaluations:
            new_metrics, new_samples = evaluation(trainable, frozen)
            metrics |= new_metrics
            samples += new_samples
        return metrics, samples

    return evaluate
