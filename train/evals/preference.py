"""Rankings of held-out answers by scores: a reward model's, or the implicit rewards of a policy.

Axes: B rows, C candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import Data
from train import losses
from train.evals.base import mean_over_heldout, means, sum_over_heldout


def overlap_score(prompt: str, response: str) -> float:
    """The share of a response's words that the prompt contains: a baseline for reward models."""

    def words(text):
        return set(re.findall(r"[a-z0-9]+", re.sub(r"[_.]", " ", text.lower())))

    response_words = words(response)
    return len(words(prompt) & response_words) / max(len(response_words), 1)


def overlap_accuracy(examples: Iterable[Mapping]) -> dict[str, tuple[float, int]]:
    """{kind: (pairs ranked right, pairs)} by `overlap_score` on preferences; a tie counts half."""
    by_kind: dict[str, list[float]] = {}
    for example in examples:
        prompt = example["messages"][-1]["content"]
        scores = [overlap_score(prompt, r) for r in example["responses"]]
        for i, better in enumerate(example["rank"]):
            for j, worse in enumerate(example["rank"]):
                if better < worse:
                    correct = (1 + np.sign(scores[i] - scores[j])) / 2
                    by_kind.setdefault(example["kinds"][j], []).append(correct)
    return {kind: (float(np.sum(correct)), len(correct)) for kind, correct in by_kind.items()}


# Upper edges of the margin ranges of `accuracy_by_margin`; the number of bins of calibration.
_MARGINS, _BINS = (0.5, 1.0, 2.0, math.inf), 10


def ranking_sums(
    scores: jax.Array, batch: Mapping[str, jax.Array], kinds: Sequence[str]
) -> dict[str, tuple]:
    """{metric: (sum, weight)} of scores [B, C] on the pairs of a preference batch.

    The Bradley-Terry loss, the margin, the accuracy by kind of the worse candidate and by size of
    the margin, and the bins from which `ranking_metrics` computes the calibration error. Ties count
    half. `accuracy/alone` is the accuracy of single answers (`sign_accuracy` in train/losses.py).
    """
    rank, group = batch["rank"], batch["group"]
    pairs = losses.pairs(rank, group)
    gap = scores[:, :, None] - scores[:, None, :]
    size, correct, count = jnp.abs(gap), (1 + jnp.sign(gap)) / 2, jnp.sum(pairs)
    out = {
        "loss": losses.bradley_terry(scores, rank, group),
        "margin": losses.pair_metrics(scores, rank, group)["margin"],
    }
    for number, kind in enumerate(kinds):
        of_kind = pairs * (batch["kind"] == number)[:, None, :]
        out[f"accuracy/{kind or 'all'}"] = jnp.sum(correct * of_kind), jnp.sum(of_kind)
    single = losses.singles(rank, group)
    out["accuracy/alone"] = jnp.sum(losses.sign_accuracy(scores, rank) * single), jnp.sum(single)
    for low, high in zip((0.0, *_MARGINS), _MARGINS, strict=False):
        inside = pairs * ((size >= low) & (size < high))
        out[f"accuracy_by_margin/{low:g}-{high:g}"] = jnp.sum(correct * inside), jnp.sum(inside)
    confidence = jax.nn.sigmoid(size)  # the probability that the model gives its own choice
    bins = jnp.minimum(((confidence - 0.5) * 2 * _BINS).astype(jnp.int32), _BINS - 1)
    for number in range(_BINS):
        error = jnp.where(bins == number, correct - confidence, 0.0)
        out[f"_bin/{number}"] = jnp.sum(error * pairs), count
    return out


def ranking_metrics(totals: Mapping[str, Any]) -> dict[str, float]:
    """Metrics from the held-out totals of `ranking_sums`: their means, with the expected
    calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3) in place of its bins, and the
    metrics of `accuracies`."""
    by_kind = {k: v for k, v in totals.items() if k.startswith("accuracy/") and v[1]}
    metrics = {k: v for k, v in means(totals).items() if k not in by_kind}
    bins = [metrics.pop(k) for k in list(metrics) if k.startswith("_bin/")]
    metrics["calibration_error"] = sum(map(abs, bins))
    return metrics | accuracies({k.removeprefix("accuracy/"): v for k, v in by_kind.items()})


def accuracies(by_kind: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """`accuracy/KIND` and `pairs/KIND`, the number of pairs, of each kind, and as KIND `overall`
    the unweighted mean of the accuracies and the number of all pairs.

    Args:
      by_kind: {kind: (pairs ranked right, pairs)}. prefix: of the metrics' names.
    """
    right = {kind: float(k / n) for kind, (k, n) in by_kind.items()}
    pairs = {kind: float(n) for kind, (_, n) in by_kind.items()}
    if right:
        right["overall"], pairs["overall"] = float(np.mean([*right.values()])), sum(pairs.values())
    return {f"{prefix}accuracy/{kind}": x for kind, x in right.items()} | {
        f"{prefix}pairs/{kind}": x for kind, x in pairs.items()
    }


class Ranking:
    """The ranking of held-out answers by scores (`ranking_sums`).

    Args:
      data: preferences. role: the role of the model that scores.
      scores: (params, batch) -> [B, C], the scores of a preference batch.
      loss: (scores, batch) -> (sum, weight), reported in place of the Bradley-Terry loss.
      first_pass: (params, batch) -> {name: (sum, weight)}; the means over the held-out rows are
        added to the batch of `scores` and `loss`, and reported.
    """

    def __init__(
        self, ctx: Any, data: Data, role: str, scores: Callable, loss: Callable | None = None,
        first_pass: Callable | None = None,
    ):  # fmt: skip
        self.ctx, self.data, self.role = ctx, data, role

        def sums(params, batch):
            values = scores(params, batch)
            out = ranking_sums(values, batch, data.kinds)
            return out | {"loss": loss(values, batch)} if loss else out

        self._sums, self._first_pass = jax.jit(sums), first_pass and jax.jit(first_pass)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del frozen
        params, first_means = trainable[self.role], {}
        if self._first_pass:
            first_means = mean_over_heldout(self.ctx, self.data, self._first_pass, params)

        def sums(params, batch):
            return self._sums(params, batch | first_means)

        metrics = ranking_metrics(sum_over_heldout(self.ctx, self.data, sums, params))
        return metrics | first_means, []


class WordOverlap:
    """The ranking of held-out answers by the words that they share with their prompt: a baseline
    that needs no model: `overlap_accuracy`."""

    def __init__(self, data: Data):
        by_kind = overlap_accuracy(data.heldout_examples)
        self._metrics = accuracies({k or "all": v for k, v in by_kind.items()}, "overlap_")

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del trainable, frozen
        return dict(self._metrics), []
