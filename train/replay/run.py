"""A replay: answers of checkpoints to the people's conversations, measured, compared, decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from model.sharding import MeshConfig, make_mesh
from train.replay import answers, copying, gates, measures, scores
from train.replay.plan import Options, Plan, plan
from train.replay.report import files
from train.replay.report.content import Content
from train.replay.scores import Asked
from train.replay.summary import PEOPLE, Column, Replay, Value, preference_of, regressions
from train.tasks.base import Answer
from train.tasks.evaluation.benchmark import Result
from train.tasks.evaluation.results import Model
from train.terminal.console import console
from train.terminal.progress import Progress


class Replayed(NamedTuple):
    """The outcome of a replay.

    Attributes:
      content: of the report: `replay` with the answers, `verdicts` of the gates, `decisions` of who
        answers each category. report: the page.
    """

    content: Content
    report: epath.Path

    @property
    def passed(self) -> bool:
        """Whether every gate is passed."""
        return all(verdict.passed for verdict in self.content.verdicts)

    def value(self, metric: str) -> Value:
        """A metric of the checkpoint that is tried."""
        return self.content.replay.value(metric)


def replay(options: Options, begin: Callable[[Plan], None] = lambda planned: None) -> Replayed:
    """Replays conversations with checkpoints, and writes the report.

    Answers and scores are kept in the folders of the checkpoints, so that the same call resumes,
    and a checkpoint that has answered these conversations before answers nothing anew:

        from train.replay.plan import Options
        from train.replay.run import replay

        done = replay(Options("runs/round2/dpo", "chats.jsonl", "runs/round2/replay.html",
                              against=["runs/round1/dpo"], reward="runs/round2/reward"))
        done.passed, done.value("win_rate"), done.value("similarity").low

    Args:
      begin: called once the inputs are checked.

    Raises:
      ConfigError, DataError, ValueError: bad input, before anything is generated where possible.
      FloatingPointError: a model's numbers are not finite.
    """
    planned = plan(options)
    begin(planned)
    for note in planned.read.notes:
        console.print(f"  {note}")
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        asked = answers.benchmark(planned.read.turns, options.max_new_tokens, options.temperature)
        sampled = [
            answers.sample(evaluation, asked, label, mesh)
            for evaluation, label in zip(planned.evaluations, planned.labels, strict=True)
        ]
        columns = [_people(planned)]
        for label, (_, result) in zip(planned.labels, sampled, strict=True):
            columns.append(_checkpoint(planned, label, result))
        _add_copied(planned, columns)
        unscored = _add_scores(planned, columns, mesh)
    preference = preference_of([*planned.scorers, "similarity"])
    compared = Replay(planned.read.turns, columns[0], columns[1:], preference)
    conditions, decisions = gates.rollout(planned.gates, compared, planned.available)
    models = [done.model for done, _ in sampled]
    content = Content(
        compared, regressions(compared), planned.available,
        gates.verdicts(planned.gates, compared), conditions, decisions,
        [*planned.read.notes, *_notes(planned, models, [result for _, result in sampled]),
         *unscored],
        _settings(planned, models),
    )  # fmt: skip
    report = epath.Path(options.out)
    files.write(report, content)
    return Replayed(content, report)


def _people(planned: Plan) -> Column:
    """The people's answers."""
    texts = [turn.answer for turn in planned.read.turns]
    return Column(PEOPLE, texts, measures.measure(planned.read.turns, texts))


def _checkpoint(planned: Plan, label: str, result: Result) -> Column:
    """The answers of a checkpoint."""
    parts = [part for (part,) in result.responses if isinstance(part, Answer)]
    texts = [part.text.strip() for part in parts]
    values = measures.measure(planned.read.turns, texts)
    values["similarity"] = np.array([outcome["similarity"] for outcome in result.outcomes])
    values["cut"] = np.array([float(part.cut) for part in parts])
    return Column(label, texts, values)


def _add_copied(planned: Plan, columns: Sequence[Column]) -> None:
    """Adds the words that are copied from the training data of each checkpoint; for the people's
    answers those that the first one's has too."""
    training = [planned.training[0], *planned.training]
    with Progress("copied words"):
        runs = copying.copied([column.texts for column in columns], training)
    for column, own in zip(columns, runs, strict=True):
        if len(own):
            column.values["copied"] = own.astype(np.float64)


def _add_scores(planned: Plan, columns: Sequence[Column], mesh: jax.sharding.Mesh) -> list[str]:
    """Adds the scores of the reward model and of the judge to all columns; returns notes about the
    answers that they cannot score."""
    turns, notes = planned.read.turns, list[str]()
    asked = [
        Asked(turn.messages, text, not cut)
        for column in columns
        for turn, text, cut in zip(
            turns, column.texts, column.values.get("cut", np.zeros(len(turns))), strict=True
        )
    ]
    for role, place in planned.scorers.items():
        scored = scores.score(place.name, place.folder, asked, mesh)
        if scored.unfit:
            count = int(np.isnan(scored.scores).sum())
            notes.append(f"the {role} model cannot score {count:,} answers: {scored.unfit}")
        for column, values in zip(columns, np.split(scored.scores, len(columns)), strict=True):
            column.values[role] = values
    return notes


def _notes(planned: Plan, models: Sequence[Model], results: Sequence[Result]) -> list[str]:
    """Remarks on the numbers, for their reader."""
    notes = [
        f"{label}: {result.cut:,} prompts or answers were cut to the tokens that fit"
        for label, result in zip(planned.labels, results, strict=True)
        if result.cut
    ]
    if len({model.tokenizer for model in models}) > 1:
        notes.append(
            f"the checkpoints have different tokenizers, of which {planned.options.max_new_tokens} "
            "tokens are not the same length of text"
        )
    for label, training in zip(planned.labels, planned.training, strict=True):
        shared = copying.questions(training) & {
            copying.content_key({"messages": messages}) for messages in planned.read.whole
        }
        if shared:
            notes.append(f"{label} was trained on {len(shared):,} of these questions")
        notes += [f"training data of {label} that is not read: {why}" for why in training.unread]
    return notes


def _settings(planned: Plan, models: Sequence[Model]) -> dict[str, Any]:
    """Everything that decides the report."""
    options = planned.options
    source = options.conversations
    return {
        "checkpoints": [model._asdict() for model in models],
        **{role: place.name for role, place in planned.scorers.items()},
        "conversations": source if isinstance(source, str) else ", ".join(source),
        "passages": options.passages,
        "turns": options.turns,
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "gates": options.gates,
    }
