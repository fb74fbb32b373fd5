"""Answers of runs for people to rank, and scores of a reward model (data/ranking)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from data.errors import DataError
from data.ranking.questions import Candidate, Question
from data.ranking.sampling import Sampled, Score
from data.text.chat import render_prompt
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.chat import passages
from train.chat.model import open_scorer
from train.chat.workdirs import check_workdir
from train.config.saved import split_step
from train.interop import opening
from train.runtime import compilation
from train.tasks.scoring.generation import AnswerSampler, PromptIds

ROWS = 16  # answers that a device samples at once


class RunAnswers:
    """Answers of a run's policy to questions (a data.ranking.sampling.Answerer).

    Args:
      name: a workdir, or WORKDIR@STEP. sampling: `max_new_tokens`, `temperature`, `top_p`.
      seed: an answer depends on it, on the question's number and on its own among the samples.

    Raises:
      ValueError: there is no policy, an answer alone would fill its context, or the tokenizer is
        not the one that the model was trained with.
    """

    def __init__(self, name: str, sampling: Mapping[str, Any], seed: int):
        workdir, step = split_step(name)
        check_workdir(workdir)
        compilation.enable("auto", epath.Path(workdir))
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        _, _, config, self._params, self._tokenizer = opening.open_model(name, "policy", mesh)
        if (ids := self._tokenizer.vocab_size) > config.vocab_size:
            raise ConfigError(
                f"the tokenizer in {workdir} has {ids} ids and its model {config.vocab_size}: it "
                f"is another one. Restore {workdir}/tokenizer, or name another run"
            )
        self._sampler = AnswerSampler(config, self._tokenizer, mesh, ROWS)
        self._sampling = self._sampler.sampling(**sampling)
        self._room = config.max_length - self._sampling.max_new_tokens
        self._seed, self._name = seed, name
        if step is None:  # the newest
            folders = (epath.Path(workdir) / "checkpoints").iterdir()
            step = max(int(folder.name) for folder in folders if folder.name.isdigit())
        self.source: Mapping[str, Any] = {"run": workdir, "step": step, **sampling, "seed": seed}

    def __call__(
        self, questions: Sequence[Question], samples: int
    ) -> Iterator[tuple[int, list[Sampled] | str]]:
        sampling = dataclasses.replace(self._sampling, samples=samples)
        prompts = []
        for question in questions:
            try:
                ids = render_prompt(self._tokenizer, question.messages, question.tools)
            except DataError as error:
                yield question.id, f"{self._name}: {error}"
                continue
            if len(ids) > self._room:
                yield question.id, f"the prompt does not fit the context of {self._name}"
                continue
            prompts.append(PromptIds(question.id, ids.tolist(), (), sampling))
        for number, answers in self._sampler(self._params, prompts, self._seed):
            yield number, [Sampled(answer.text, not answer.cut) for answer in answers]


def open_answerers(
    names: Sequence[str], sampling: Mapping[str, Any], seed: int
) -> list[RunAnswers]:
    """The answerers of several runs."""
    return [RunAnswers(name, sampling, seed + i) for i, name in enumerate(names)]


def ground(questions: Sequence[Question], name: str, source: str) -> None:
    """Writes passages of `source` into the questions of users, with the settings of a run."""
    found = passages.ChatPassages(source, passages.settings_of(name), opening.open_tokenizer(name))
    for question in questions:
        *before, last = question.messages
        if last["role"] == "user":
            question.messages = [*before, last | {"content": found.prompt(last["content"])}]


def hints(names: Sequence[str]) -> list[str]:
    """A line for each run that was trained with passages."""
    return [f"{name} was {hint}" for name in names if (hint := passages.hint(name))]


def open_score(name: str) -> Score:
    """The scores of a run's reward model."""
    scorer = open_scorer(name)

    def score(messages: Sequence[Mapping], candidates: Sequence[Candidate]) -> list[float]:
        return [
            scorer.score(
                [*messages, {"role": "assistant", "content": candidate.text}],
                candidate.source.get("ended", True),
            )
            for candidate in candidates
        ]

    return score
