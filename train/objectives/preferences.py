"""The code that DPO, KTO, ORPO and SimPO share: policies learned from preferences.

Axes: B rows, S sub-rows of T tokens, C candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data.pipeline import Data
from model.config import TransformerConfig
from model.transformer import Transformer
from ranges import ConfigError
from train import losses
from train.evals.base import Evaluation, combined
from train.evals.generative import Samples
from train.evals.preference import Ranking
from train.objectives.base import Context, LoaderSource, Objective, Stage
from train.objectives.reporting import (
    PAIRS_RIGHT,
    Curve,
    Finished,
    Report,
    Result,
    pairs_right,
    ranking,
    with_count,
)
from train.rl import rewards
from train.vocabulary import token_logprobs


def answer_logprobs(
    config: TransformerConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    chunk: int,
    average: bool,
) -> jax.Array:
    """log π(answer | prompt) of each candidate of a preference batch (data/batch.py).

    Args:
      batch: rows in which candidates do not share their prompt's tokens, as an answer's first token
        is predicted from the column before it.
      chunk: as in train/vocabulary.py. average: the mean over the answer's tokens, not the sum.

    Returns:
      [B, C] float32, over the tokens of each answer through the <eos> that ends it.
    """
    B, S, T = batch["tokens"].shape
    rows = [batch[n].reshape(B * S, T) for n in ("tokens", "positions", "segment_ids")]
    hidden, _ = Transformer(config).apply({"params": params}, *rows, method=Transformer.hidden)
    logprobs, _ = token_logprobs(config, params, hidden[:, :-1], rows[0][:, 1:], 1.0, chunk)
    logprobs = jnp.pad(logprobs, ((0, 0), (1, 0))).reshape(B, S * T)
    mean = rewards.read_scores(logprobs, batch["start"], batch["end"], "mean")
    return mean if average else mean * (batch["end"] - batch["start"] + 1)


def pairwise_stage(
    ctx: Context, score: Callable, pair_loss: Callable, label_smoothing: float
) -> Stage:
    """The stage of a loss over pairs of ranked candidates.

    Args:
      score: (params, batch) -> [B, C], the scores by which the policy ranks candidates.
      pair_loss: (scores, rank, group, smoothing=noise) -> (sum over pairs, number of pairs), with
        the noise of `losses.label_noise`. label_smoothing: its share of reversed rankings.
    """

    def loss(scores, batch):
        noise = losses.label_noise(label_smoothing, batch["doubt"])
        return pair_loss(scores, batch["rank"], batch["group"], smoothing=noise)

    def weights(batch):
        return {"pairs": jnp.sum(losses.pairs(batch["rank"], batch["group"]))}

    def loss_terms(trainable, frozen, batch):
        del frozen
        scores = score(trainable["policy"], batch)
        total, _ = loss(scores, batch)
        return {"pairs": total}, score_metrics(scores, batch)

    return Stage(weights, loss_terms, LoaderSource(ctx), heldout(ctx, score, loss))


def score_metrics(scores: jax.Array, batch: Mapping[str, jax.Array]) -> dict:
    """{metric: (sum, weight)} of a training batch."""
    rank, group = batch["rank"], batch["group"]
    beats = losses.pairs(rank, group)
    # A preferred answer can still become less likely; this metric shows it.
    better = losses.masked_sum(scores[:, :, None], beats)
    return losses.pair_metrics(scores, rank, group) | {"better_reward": (better, jnp.sum(beats))}


def heldout(
    ctx: Context, score: Callable, loss: Callable, first_pass: Callable | None = None
) -> Callable[[Data], Evaluation]:
    """`Stage.evaluation`: the ranking of held-out answers by `score`, and samples of the policy.

    Args:
      score: as in `pairwise_stage`. loss, first_pass: as in train/evals/preference.py's Ranking.
    """

    def evaluation(data: Data) -> Evaluation:
        ranking = Ranking(ctx, data, "policy", score, loss, first_pass)
        return combined(ranking, Samples(ctx, data, ctx.config.evaluate))

    return evaluation


def validate_own_prompts(config: Any) -> None:
    """Validates that candidates do not share the tokens of their prompt.

    Raises:
      ConfigError: they do.
    """
    if config.data.share_prompt:
        raise ConfigError(
            f"stage {config.stage} reads each answer after its own copy of the prompt; "
            "set --config.data.share_prompt=False"
        )


def splits(data: Data) -> dict[str, dict[str, np.ndarray]]:
    """{`train`, `heldout`}: the preference rows of both splits. They are in memory, as shards on
    disk (data/prepare) hold text or conversations only."""
    return {"train": cast("dict[str, np.ndarray]", data.train), "heldout": data.heldout}


def with_splits(ctx: Context, rows: Mapping[str, dict[str, np.ndarray]]) -> Context:
    """The context with other rows: {`train`, `heldout`}, as `splits` returns them."""
    data = dataclasses.replace(ctx.data, train=rows["train"], heldout=rows["heldout"])
    return dataclasses.replace(ctx, data=data)


def validate_comparisons(ctx: Context) -> None:
    """Validates that some prompt has two answers to compare.

    Raises:
      ConfigError: none has.
    """
    train = splits(ctx.data)["train"]
    real, group = train["rank"] >= 0, train["group"]
    if not np.any(real.sum(1) > np.where(real, group, -1).max(1) + 1):
        raise ConfigError(
            "these answers are labelled good or not one by one, and the stage compares answers to "
            "one prompt; train a reward model on them: --config.stage=reward"
        )


def only_validate(
    ctx: Context, frozen: Mapping[str, Any], origins: Mapping[str, Any], workdir: epath.PathLike
) -> tuple[Context, Mapping[str, Any]]:
    """`Objective.precompute` of an objective without a reference: validates the data, adds none."""
    del origins, workdir
    validate_comparisons(ctx)
    return ctx, frozen


def report(method: str, scores: str, loss_unit: str) -> Report:
    """The report of an objective whose policy ranks answers.

    Args:
      method: its name. scores: the name of the scores that rank the answers, as `its average
        log-probability`. loss_unit: as `loss per pair`.
    """

    def numbers(run: Finished) -> dict:
        return {
            "accuracy_before": run.metric("accuracy/overall", first=True),
            "pairs_right_before": pairs_right(
                run.family("accuracy", first=True), run.family("pairs", first=True)
            ),
            "heldout_accuracy": run.family("accuracy"),
            "heldout_pairs": run.family("pairs"),
            "loss_before": run.metric("loss", first=True),
            "loss": run.metric("loss"),
            "margin": run.metric("margin"),
        }

    def result(run, values, report) -> Result | None:
        accuracy, pairs = values["heldout_accuracy"], values["heldout_pairs"]
        if "overall" not in accuracy:
            return None
        before, doubts = values.get("accuracy_before"), []
        beside = "guessing gets 50%"
        if before is not None:
            counts = values.get("pairs_right_before"), pairs.get("overall")
            beside = f"before training {with_count(before, *counts)}"
            if not accuracy["overall"] > before:
                doubts.append("not better than before training")
        text = (
            f"Of two held-out answers, how often {scores} is higher for the better one, ties "
            "counted half."
        )
        if "loss" in values and "loss_before" in values:
            text += f" The loss went from {values['loss_before']:.3f} to {values['loss']:.3f}."
        reason = "better than guessing"
        return ranking(method, accuracy, pairs, beside, text, doubts, reason)

    curves = (
        Curve("loss", loss_unit, "loss", "loss"),
        PAIRS_RIGHT,
        Curve("margin", "difference of the scores", "margin", "margin"),
    )
    return Report(numbers, result, curves)


def objective(
    build: Callable[[Context], Stage],
    settings: type,
    method: str,
    scores: str,
    loss_unit: str = "loss per pair",
    **others: Any,
) -> Objective:
    """The registry's row of an objective whose policy learns from preferences.

    Args:
      method, scores, loss_unit: as in `report`. others: further fields of the row.
    """
    return Objective(
        schema="preference",
        trainable=("policy",),
        build=build,
        origins={"policy": ("policy",)},
        required=("policy",),
        settings=settings,
        validate=validate_own_prompts,
        report=report(method, scores, loss_unit),
        **others,
    )
