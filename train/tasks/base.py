"""The types that tasks, the scorer and the runner share.

A task turns each document of a data set into a request; the scorer answers requests with a model;
the task turns a response into the numbers of an item, and those of all items into metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from data.config import DataConfig
from data.text.base import Tokenizer

# A record of a data set.
Document: TypeAlias = Mapping[str, Any]

# The text before a continuation or an answer: plain text, or a conversation that awaits an answer,
# [{"role": …, "content": …}], rendered by the tokenizer's chat template.
Prompt: TypeAlias = str | tuple[Mapping[str, str], ...]


class Continuation(NamedTuple):
    """A text whose log-likelihood after `context` is asked for.

    White space at the end of a plain context belongs to the continuation's ids, and the ids of the
    continuation are those of both texts together without those of the context alone, as in
    lm-evaluation-harness.
    """

    context: Prompt
    text: str


@dataclasses.dataclass(frozen=True)
class Likelihoods:
    """A request for log-likelihoods of continuations, as the choices of one question; what their
    ids have in common at the start is computed once."""

    continuations: tuple[Continuation, ...]


@dataclasses.dataclass(frozen=True)
class Rolling:
    """A request for the log-likelihood of a whole text, in windows.

    Attributes:
      stride: tokens that each window scores anew; 0 for windows without overlap, each of whose
        first tokens sees one token before it, as in lm-evaluation-harness.
    """

    text: str
    stride: int = 0


@dataclasses.dataclass(frozen=True)
class Generation:
    """A request for answers.

    Attributes:
      stop: texts that end an answer and do not belong to it; the tokenizer's stop ids end it too.
      temperature: 0 is greedy. samples: number of answers.
    """

    prompt: Prompt
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    samples: int = 1


Request: TypeAlias = Likelihoods | Rolling | Generation


class Scored(NamedTuple):
    """The response for one continuation, or for a whole text.

    Attributes:
      logprob: the sum over its tokens, in nats. greedy: whether each of its tokens is the
        likeliest. tokens: their number. cut: tokens of the context that did not fit and were left
        out on the left.
    """

    logprob: float
    greedy: bool
    tokens: int
    cut: int = 0


class Answer(NamedTuple):
    """One generated answer.

    Attributes:
      cut: it ended at the largest number of tokens. prompt_cut: tokens of the prompt that did not
        fit and were left out on the left.
    """

    text: str
    cut: bool
    prompt_cut: int = 0


# Of Likelihoods a Scored each, of Rolling one, of Generation an Answer each.
Response: TypeAlias = tuple[Scored, ...] | tuple[Answer, ...]

# The numbers of an item by metric, such as {"acc": 1.0, "acc_norm": 0.0}; a number that the
# aggregate of several metrics reads may be any JSON value.
Outcome: TypeAlias = Mapping[str, Any]


class Estimate(NamedTuple):
    """A metric over all items; `stderr` is NaN where none is defined."""

    value: float
    stderr: float


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: (outcomes of all items) -> Estimate.

    Attributes:
      item: the number of an outcome that two runs are compared by, item by item; "" for none.
      higher_is_better.
    """

    estimate: Callable[[Sequence[Outcome]], Estimate]
    item: str = ""
    higher_is_better: bool = True

    def __call__(self, outcomes: Sequence[Outcome]) -> Estimate:
        return self.estimate(outcomes)


def unchanged(record: Document) -> list[Document]:
    """A record that is a document as it is."""
    return [record]


@dataclasses.dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
      name. description: one line: the source of its prompts and data, with the paper.
      source: the documents that are scored, as in `data.source` ("hf:…", "tfds:…" or a path); empty
        for a task whose data is given by `--data` alone.
      request: (document, examples, chat) -> Request. examples: documents of the pool, the few
        shots. chat: whether the examples are turns of a conversation and the question its last.
      outcome: (document, response) -> the item's numbers.
      metrics: {metric: Metric}, the headline first.
      kind: of its requests: `likelihood`, `rolling` or `generation`.
      prepare: record of the source -> documents; usually one, none for a record that cannot be
        scored (counted by the reader). It raises DataError for a record without the fields it
        needs. `request` and `outcome` are given documents as it returns them.
      pool: the records of which examples are drawn; empty for documents of `source` that are then
        not scored.
      examples: documents that are the examples, the first `shots` of them, instead of a pool.
      fixed: whether the examples are the first ones of the pool, and not drawn.
      shots: examples where the command names no number.
      group: the field of a document by whose values results are also given, such as `subject`;
        examples are of the document's own group. "" for none.
      files: names of the task's file in a folder of data besides its own name.
      documents: whether a document of a .txt is a `line` or the whole `file`.
      records: () -> (location, record) pairs, instead of those of `source`.
      of_run: (DataConfig of a run, its schema) -> the task with the run's own data, for a task
        about what a model was trained on; None for all others.
      with_tokenizer: (a model's tokenizer) -> the task, for one whose texts are cut to a number of
        tokens; it has to be called before `prepare`. None for all others.
      labels: the classes that an outcome's `gold` and `choice` number, of a classification; a
        choice of -1 is none of them.
    """

    name: str
    description: str
    source: str
    request: Callable[[Document, Sequence[Document], bool], Request]
    outcome: Callable[[Document, Response], Outcome]
    metrics: Mapping[str, Metric]
    kind: str
    prepare: Callable[[Document], Sequence[Document]] = unchanged
    pool: str = ""
    examples: tuple[Document, ...] = ()
    fixed: bool = False
    shots: int = 0
    group: str = ""
    files: tuple[str, ...] = ()
    documents: str = "line"
    records: Callable[[], Iterable[tuple[str, Document]]] | None = None
    of_run: Callable[[DataConfig, str], Task] | None = None
    with_tokenizer: Callable[[Tokenizer], Task] | None = None
    labels: tuple[str, ...] = ()


class Part(NamedTuple):
    """A task of a suite.

    Attributes:
      task: a name of the registry. shots: examples. metric: the task's number that is read.
      chance: its value for random answers.
    """

    task: str
    shots: int
    metric: str
    chance: float


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tasks with one number for all: the mean of the parts' centred values,
    (value - chance)/(1 - chance).

    Attributes:
      name, description: as of a Task. parts: by name; a task may be in it with several shots.
      metric: the name of the mean.
    """

    name: str
    description: str
    parts: Mapping[str, Part]
    metric: str
