"""A reward model: the Bradley-Terry loss over pairs and rankings, and over single answers labelled
good or not."""

from __future__ import annotations

import jax.numpy as jnp

from data.pipeline import Data
from train import losses
from train.evals.base import Evaluation, combined
from train.evals.preference import Ranking, WordOverlap
from train.objectives.base import Context, LoaderSource, Objective, Stage
from train.objectives.reporting import Bars, Curve, Finished, Report, Result
from train.rl import rewards


def build(ctx: Context) -> Stage:
    """The stage of a reward model."""
    config, settings = ctx.models["reward"], ctx.config.loss

    def score(params, batch):
        return rewards.score_candidates(config, params, batch)

    def weights(batch):
        rank, group = batch["rank"], batch["group"]
        ties = settings.ties * jnp.sum(losses.tied(rank, group))
        singles = jnp.sum(losses.singles(rank, group))
        return {"pairs": jnp.sum(losses.pairs(rank, group)) + ties + singles}

    def loss(trainable, frozen, batch):
        del frozen
        scores = score(trainable["reward"], batch)
        total, _ = losses.bradley_terry(
            scores, batch["rank"], batch["group"], settings.margin, settings.center,
            losses.label_noise(settings.label_smoothing, batch["doubt"]), settings.ties,
        )  # fmt: skip
        return {"pairs": total}, losses.pair_metrics(scores, batch["rank"], batch["group"])

    def evaluation(data: Data) -> Evaluation:
        return combined(Ranking(ctx, data, "reward", score), WordOverlap(data))

    return Stage(weights, loss, LoaderSource(ctx), evaluation)


def _numbers(run: Finished) -> dict:
    """Accuracies by kind; word overlap is measured for the reward model only, not for the judge."""
    values = {"heldout_accuracy": run.family("accuracy")}
    if run.role != "judge":
        values["word_overlap_accuracy"] = run.family("overlap_accuracy")
    return values


def _judge(report) -> dict:
    return report.get("judge", {}).get("heldout_accuracy", {})


def _result(values, report) -> Result | None:
    if any("overall" not in values[f"{n}_accuracy"] for n in ("heldout", "word_overlap")):
        return None
    accuracy = values["heldout_accuracy"]["overall"]
    beside = f"word overlap {values['word_overlap_accuracy']['overall']:.1%}"
    text = (
        "Of two answers that it has never seen, how often it scores the better one higher: "
        "the plain mean over the ways in which the other is worse. Guessing gets 50%; word "
        "overlap prefers the answer that shares more words with the question."
    )
    if (judged := _judge(report).get("overall")) is not None:
        beside += f", judge {judged:.1%}"
        text += " The judge is a second reward model, against which no policy is trained."
    return Result("Reward model", f"{accuracy:.1%} of pairs right", beside, text)


def _bars(values, report) -> Bars:
    accuracies = {"reward model": values["heldout_accuracy"]}
    if judge := _judge(report):
        accuracies["judge"] = judge
    accuracies["word overlap"] = values["word_overlap_accuracy"]
    return Bars(
        "What the reward model learned",
        "Held-out pairs ranked right, by what is wrong with the worse answer. The line is 50%, a "
        "coin’s; word overlap prefers the answer that shares more words with the question.",
        accuracies,
    )


OBJECTIVE = Objective(
    schema="preference",
    trainable=("reward",),
    build=build,
    origins={"reward": ("reward", "policy")},
    report=Report(
        _numbers,
        _result,
        (
            Curve("loss (nats a pair)", "loss", "loss"),
            Curve("pairs ranked right", "accuracy", "accuracy/overall", percent=True),
        ),
        _bars,
    ),
)
