"""The parts that evaluations share: their settings, means over held-out rows, what they return.

An evaluation is `(trainable, frozen) -> (metrics, samples)`: metrics are floats over all of its
held-out rows, samples are dicts of text for samples.jsonl. Every draw uses fixed keys, so that two
evaluations of the same weights agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import numpy as np

import ranges
from data.loader import heldout_batches
from model import sharding
from ranges import CountOr0, Range

SEED = 20_240  # of evaluation; a run's own seed must not change what it is measured on

# (trainable, frozen) -> (metrics, samples)
Evaluation = Callable[[Mapping, Mapping], tuple[dict[str, float], list[dict]]]


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """An evaluation beside the stage's own, an entry of `config.evals`. Its metrics are logged as
    `NAME/metric`; its samples carry its name as `eval`.

    Attributes:
      type: a row of train/evals/registry.py.
      source: held-out data, as `data.source`; empty is the run's own held-out split. fields,
        documents: as in `data`.
      schema: of the source, for a type that reads several; empty is the type's first.
      every: steps between evaluations; 0 is `evaluate.every`.
      limit: the largest number of examples; 0 uses all.
      length: tokens a row; 0 is that of the run's held-out rows.
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


def mean_over_heldout(ctx, data, sums, *args) -> dict[str, float]:
    """The means of a data set's held-out rows.

    Args:
      sums: (*args, batch) -> {metric: (sum, weight)}.
    """
    totals: dict[str, np.ndarray] = {}
    size = ctx.config.data.batch_size
    local = sharding.local_rows(ctx.mesh, size)
    for batch in heldout_batches(data.heldout, size, local):
        for name, pair in jax.device_get(sums(*args, sharding.put_batch(batch, ctx.mesh))).items():
            totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)
    return {name: float(s / w) for name, (s, w) in totals.items() if w}


def spread(size: int, count: int) -> list[int]:
    """`count` indices, or `size` if fewer, evenly over range(size)."""
    count = min(count, size)
    return [i * size // count for i in range(count)]


def combined(*evaluations: Evaluation) -> Evaluation:
    """Several evaluations as one."""

    def evaluate(trainable, frozen):
        metrics: dict[str, float] = {}
        samples: list[dict] = []
        for evaluation in evaluations:
            more, texts = evaluation(trainable, frozen)
            metrics |= more
            samples += texts
        return metrics, samples

    return evaluate
