"""Policies learned from preferences: what DPO, KTO, ORPO and SimPO share.

Axes: B rows, S sub-rows of T tokens, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from data.pipeline import Data
from model.transformer import Transformer
from ranges import ConfigError
from train import losses
from train.evals.base import Evaluation, combined
from train.evals.generative import Samples
from train.evals.preference import Ranking
from train.objectives.base import Context, LoaderSource, Stage
from train.objectives.reporting import Curve, Finished, Report, Result
from train.rl import rewards
from train.vocabulary import token_logprobs


def answer_logprobs(config, params, batch, chunk: int, average: bool):
    """log π(answer | prompt) of each candidate of a preference batch (data/batch.py), [B, C]
    float32: the sum over the answer's tokens, through the <eos> that ends it, or their mean.

    `chunk`: as in train/vocabulary.py. The candidates may not share their prompts' tokens: an
    answer's first token is predicted from the column left of it.
    """
    B, S, T = batch["tokens"].shape
    rows = [batch[n].reshape(B * S, T) for n in ("tokens", "positions", "segment_ids")]
    hidden, _ = Transformer(config).apply({"params": params}, *rows, method=Transformer.hidden)
    logprobs, _ = token_logprobs(config, params, hidden[:, :-1], rows[0][:, 1:], 1.0, chunk)
    logprobs = jnp.pad(logprobs, ((0, 0), (1, 0))).reshape(B, S * T)
    mean = rewards.read_scores(logprobs, batch["start"], batch["end"], "mean")
    return mean if average else mean * (batch["end"] - batch["start"] + 1)


def pairwise_stage(ctx: Context, score: Callable, loss: Callable) -> Stage:
    """The stage of a loss over pairs of ranked candidates.

    Args:
      score: (params, batch) -> [B, C], the scores by which the policy ranks candidates.
      loss: (scores, batch) -> (sum over pairs, number of pairs).
    """

    def weights(batch):
        return {"pairs": jnp.sum(losses.pairs(batch["rank"], batch["group"]))}

    def loss_terms(trainable, frozen, batch):
        del frozen
        scores = score(trainable["policy"], batch)
        total, _ = loss(scores, batch)
        return {"pairs": total}, score_metrics(scores, batch)

    return Stage(weights, loss_terms, LoaderSource(ctx), heldout(ctx, score, loss))


def score_metrics(scores, batch) -> dict:
    """{metric: (sum, weight)} of training batches."""
    rank, group = batch["rank"], batch["group"]
    beats = losses.pairs(rank, group)
    # A preferred answer can still become less likely; this metric shows it.
    better = losses.masked_sum(scores[:, :, None], beats)
    return losses.pair_metrics(scores, rank, group) | {"better_reward": (better, jnp.sum(beats))}


def heldout(
    ctx: Context, score: Callable, loss: Callable, first_pass: Callable | None = None
) -> Callable[[Data], Evaluation]:
    """`Stage.evaluation`: the ranking of held-out answers by `score`, as in `pairwise_stage`, and a
    few answers of the policy's own. `first_pass`: as of Ranking."""

    def evaluation(data: Data) -> Evaluation:
        ranking = Ranking(ctx, data, "policy", score, loss, first_pass)
        return combined(ranking, Samples(ctx, data, ctx.config.evaluate))

    return evaluation


def check_own_prompts(config) -> None:
    """Raises ConfigError if candidates share the tokens of their prompt."""
    if config.data.share_prompt:
        raise ConfigError(
            f"stage {config.stage} reads each answer behind a prompt of its own; "
            "set --config.data.share_prompt=False"
        )


def check_comparisons(ctx: Context) -> None:
    """Raises ConfigError if no prompt has two answers to compare."""
    real, group = ctx.data.train["rank"] >= 0, ctx.data.train["group"]
    if not np.any(real.sum(1) > np.where(real, group, -1).max(1) + 1):
        raise ConfigError(
            "these answers are good or not by themselves, and the stage compares answers to one "
            "prompt; train a reward model on them: --config.stage=reward"
        )


def compare(ctx: Context, frozen, origins, workdir):
    """`Objective.prepare` of objectives without a reference: the check of the data alone."""
    del origins, workdir
    check_comparisons(ctx)
    return ctx, frozen


def report(title: str, scores: str) -> Report:
    """The report of an objective whose policy ranks answers.

    Args:
      scores: what the policy ranks by, as `its log-probability of the answer`.
    """

    def numbers(run: Finished) -> dict:
        return {
            "accuracy_before": run.metric("accuracy/overall", first=True),
            "heldout_accuracy": run.family("accuracy"),
            "loss_before": run.metric("loss", first=True),
            "loss": run.metric("loss"),
            "margin": run.metric("margin"),
        }

    def result(values, report) -> Result | None:
        if "overall" not in values["heldout_accuracy"]:
            return None
        right, before = values["heldout_accuracy"]["overall"], values.get("accuracy_before")
        beside = "guessing gets 50%" if before is None else f"before training {before:.1%}"
        text = (
            f"Of two held-out answers, how often {scores} is higher for the better one: the plain "
            "mean over the ways in which the other is worse, ties counted half."
        )
        if "loss" in values and "loss_before" in values:
            text += f" The loss went from {values['loss_before']:.3f} to {values['loss']:.3f}."
        return Result(title, f"{right:.1%} of pairs right", beside, text)

    curves = (
        Curve("loss", "loss", "loss"),
        Curve("pairs ranked right", "accuracy", "accuracy/overall", percent=True),
        Curve("margin", "margin", "margin"),
    )
    return Report(numbers, result, curves)
