"""A reward model: the Bradley-Terry loss over pairs and rankings, and over single answers labelled
good or not."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from data.pipeline import Data
from train import losses
from train.evals.base import Evaluation, combined
from train.evals.preference import Ranking, WordOverlap
from train.objectives.base import Context, LoaderSource, Objective, Stage
from train.objectives.reporting import (
    PAIRS_RIGHT,
    Bars,
    Curve,
    Finished,
    Report,
    Result,
    pairs_right,
    ranking,
    with_count,
)
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
    values = {"heldout_accuracy": run.family("accuracy"), "heldout_pairs": run.family("pairs")}
    if run.role != "judge":
        values["word_overlap_accuracy"] = run.family("overlap_accuracy")
        values["word_overlap_pairs"] = run.family("overlap_pairs")
    return values


def _judge(report: Mapping) -> Mapping:
    """The judge's values, empty without one."""
    values = report.get("judge", {})
    return values if "overall" in values.get("heldout_accuracy", {}) else {}


def _counted(accuracy: Mapping, pairs: Mapping) -> str:
    right, count = pairs_right(accuracy, pairs), pairs.get("overall")
    return with_count(accuracy["overall"], right, count)


def _result(run: Finished, values: Mapping, report: Mapping) -> Result | None:
    accuracy, overlap = values["heldout_accuracy"], values["word_overlap_accuracy"]
    if "overall" not in accuracy or "overall" not in overlap:
        return None
    beside = f"word overlap {_counted(overlap, values['word_overlap_pairs'])}"
    text = (
        "Of two answers that it has never seen, how often it scores the better one higher, ties "
        "counted half. Guessing gets 50%; word overlap prefers the answer that shares more words "
        "with the question."
    )
    if judge := _judge(report):
        beside += f", judge {_counted(judge['heldout_accuracy'], judge['heldout_pairs'])}"
        text += " The judge is a second reward model, against which no policy is trained."
    doubts = []
    if not accuracy["overall"] > overlap["overall"]:
        doubts.append("not better than word overlap, which needs no model")
    reason = "better than guessing and than word overlap"
    pairs = values["heldout_pairs"]
    return ranking("reward model", accuracy, pairs, beside, text, doubts, reason)


def _bars(run: Finished, values: Mapping, report: Mapping) -> Bars:
    rows = {run.name: (values["heldout_accuracy"], values["heldout_pairs"])}
    if judge := _judge(report):
        rows["judge"] = judge["heldout_accuracy"], judge["heldout_pairs"]
    rows["word overlap"] = values["word_overlap_accuracy"], values["word_overlap_pairs"]
    return Bars(
        f"Pairs that {run.name} ranks right",
        "Held-out pairs ranked right, by what is wrong with the worse answer. The line is 50%, a "
        "coin’s; word overlap prefers the answer that shares more words with the question.",
        {who: accuracies for who, (accuracies, _) in rows.items()},
        {who: pairs for who, (_, pairs) in rows.items()},
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
            Curve("loss", "nats a pair", "loss", "loss"),
            PAIRS_RIGHT,
        ),
        _bars,
    ),
)
