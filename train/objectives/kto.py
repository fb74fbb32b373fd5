"""KTO: a loss over single answers, good or not, of their gain over the reference model relative to
a reference point (Ethayarajh et al. 2024, arXiv:2402.01306).

The reference point is the KL divergence of the policy from the reference. It is estimated on
prompts with answers to other prompts, which are packed into rows when a run is set up; its mean
over a whole optimizer step is computed before the loss (`Stage.first_pass`).

Axes: N rows of a split, B rows, S sub-rows of T tokens, C candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import ranges
from ranges import Positive
from train import losses
from train.config.loss import Noise
from train.objectives import preferences, reference
from train.objectives.base import Context, LoaderSource, Stage

# The arrays of the rows for the reference point, named `kl_…` in a batch.
_KL_ROWS = ("tokens", "positions", "segment_ids", "start", "end", "mask")


@dataclasses.dataclass(frozen=True)
class KTOConfig:
    """Settings of KTO (`answer_loss`).

    Attributes:
      beta: β, the rate at which the value of a gain saturates.
      desirable_weight, undesirable_weight: λ_D and λ_U. With n_D good and n_U other answers, the
        authors advise λ_D·n_D/(λ_U·n_U) between 1 and 4/3.
      label_smoothing: ε, the share of labels assumed to be wrong.
    """

    beta: Positive = 0.1
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0
    label_smoothing: Noise = 0.0

    def __post_init__(self):
        ranges.check(self, "kto.")


def answer_loss(
    gains: jax.Array,
    rank: jax.Array,
    desirable_weight: float,
    undesirable_weight: float,
    smoothing: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """λ_D·(1 - σ(g)) of a good answer and λ_U·(1 - σ(-g)) of any other (eq. 8). An answer is good
    if it is ranked first of its group, or if it is single and labelled good: rank 0.

    Args:
      gains: [B, C] float32, g = β·(log π/π_ref - z), z the reference point. rank: as in
        `losses.bradley_terry`. smoothing: ε, a number or [B, C]: the loss of the other label is
        mixed in with weight ε.

    Returns:
      (sum over answers, number of answers).
    """
    good = desirable_weight * jax.nn.sigmoid(-gains)
    other = undesirable_weight * jax.nn.sigmoid(gains)
    wrong = jnp.where(rank == 0, smoothing, 1 - smoothing)
    real = (rank >= 0).astype(jnp.float32)
    return losses.masked_sum((1 - wrong) * good + wrong * other, real), jnp.sum(real)


def build(ctx: Context) -> Stage:
    """The stage of KTO."""
    settings, chunk, model = ctx.config.kto, ctx.config.loss.chunk, ctx.models["policy"]

    def log_ratios(params, batch):
        logprobs = preferences.answer_logprobs(model, params, batch, chunk, average=False)
        return logprobs - batch["ref_logprobs"]

    def first_pass(params, batch):
        rows = {name: batch[f"kl_{name}"] for name in (*_KL_ROWS, "ref_logprobs")}
        total = losses.masked_sum(log_ratios(params, rows), rows["mask"])
        return {"kl": (total, jnp.sum(rows["mask"]))}

    def gains(params, batch):
        return settings.beta * (log_ratios(params, batch) - jnp.maximum(batch["kl"], 0.0))

    def loss_of(gains, batch):
        noise = losses.label_noise(settings.label_smoothing, batch["doubt"])
        weights = settings.desirable_weight, settings.undesirable_weight
        return answer_loss(gains, batch["rank"], *weights, noise)

    def weights(batch):
        return {"answers": jnp.sum(batch["rank"] >= 0).astype(jnp.float32)}

    def loss(trainable, frozen, batch):
        del frozen
        scores = gains(trainable["policy"], batch)
        total, count = loss_of(scores, batch)
        kl = {"kl": (batch["kl"] * count, count)}
        return {"answers": total}, preferences.score_metrics(scores, batch) | kl

    return Stage(
        weights,
        loss,
        LoaderSource(ctx),
        preferences.heldout(ctx, gains, loss_of, first_pass),
        first_pass=lambda trainable, frozen, batch: first_pass(trainable["policy"], batch),
    )


def unrelated_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of prompts with answers to other prompts, as many and as large as preference rows.

    Each prompt has the answers to the next prompt, truncated at the end of a sub-row. They are
    packed in order, and the remaining rows repeat the first ones. `mask` [N, C] float32 is 1 for an
    answer.
    """
    N, S, T = rows["tokens"].shape
    C = rows["rank"].shape[1]
    out = {name: np.zeros_like(rows[name]) for name in _KL_ROWS[:-1]}
    out["mask"] = np.zeros((N, C), np.float32)
    rankings = list(_rankings(rows))
    if len(rankings) < 2:
        return out
    n = s = c = used = segment = 0
    for ranking, other in zip(rankings, rankings[1:] + rankings[:1], strict=True):
        for k, (prompt, _) in enumerate(ranking):
            ids = np.concatenate([prompt, other[k % len(other)][1]])[:T]
            if used + len(ids) > T:
                s, used, segment = s + 1, 0, 0
            if s == S or c == C:
                n, s, c, used, segment = n + 1, 0, 0, 0, 0
            if n == N:
                return out
            segment += 1
            place = n, s, slice(used, used + len(ids))
            out["tokens"][place], out["segment_ids"][place] = ids, segment
            out["positions"][place] = np.arange(len(ids))
            start = s * T + used
            out["start"][n, c], out["end"][n, c] = start + len(prompt), start + len(ids) - 1
            out["mask"][n, c] = 1
            used, c = used + len(ids), c + 1
    return {name: x[np.arange(N) % (n + 1)] for name, x in out.items()}


def _rankings(rows):
    """Yields [(prompt ids, answer ids)] of the candidates of each ranking."""
    T = rows["tokens"].shape[-1]
    for n in range(len(rows["tokens"])):
        tokens, segments = (rows[name][n].reshape(-1) for name in ("tokens", "segment_ids"))
        rankings: dict[int, list] = {}
        for c in np.flatnonzero(rows["rank"][n] >= 0):
            start, end = rows["start"][n, c], rows["end"][n, c]
            before = slice(start // T * T, start)
            prompt = tokens[before][segments[before] == segments[start]]
            answers = rankings.setdefault(int(rows["group"][n, c]), [])
            answers.append((prompt, tokens[start : end + 1]))
        yield from rankings.values()


def precompute(
    ctx: Context, frozen: Mapping[str, Any], origins: Mapping[str, Any], workdir: epath.PathLike
) -> tuple[Context, dict[str, Any]]:
    """Adds the rows for the reference point, `kl_…`, and the reference's log-probabilities of both
    kinds of rows.

    Returns:
      (the context with those rows, the frozen models without the reference).
    """
    splits = preferences.splits(ctx.data)
    unrelated = {f"kl_{name}": unrelated_rows(rows) for name, rows in splits.items()}
    rows = splits | unrelated
    logprobs = reference.logprobs(ctx, frozen, origins, workdir, rows, average=False)
    added = {}
    for name, split in splits.items():
        other = unrelated[f"kl_{name}"] | {"ref_logprobs": logprobs[f"kl_{name}"]}
        other = {f"kl_{key}": x for key, x in other.items()}
        added[name] = split | {"ref_logprobs": logprobs[name]} | other
    return preferences.with_splits(ctx, added), reference.without(frozen)


def precomputed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """{name: shape} of the arrays that `precompute` adds to a batch."""
    numbers = reference.precomputed(batch)["ref_logprobs"]
    other = {f"kl_{name}": batch[name] for name in _KL_ROWS[:-1]}
    return {"ref_logprobs": numbers, "kl_ref_logprobs": numbers, "kl_mask": numbers} | other


OBJECTIVE = preferences.objective(
    build, KTOConfig, "KTO", "its log-probability relative to the reference",
    frozen=("reference",), precompute=precompute, precomputed=precomputed,
    forwards={"policy": 1}, loss_unit="loss per answer",
)  # fmt: skip
