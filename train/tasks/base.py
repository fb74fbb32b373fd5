"""The types that tasks, the scorer and the runner share.

A task turns each document of a data set into a request; the scorer answers requests with a model;
the task turns a response into the numbers of an item, and those of all items into metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
class Task:
    """A benchmark.

    Attributes:
      name. description: one line: the source of its prompts and data, with the paper.
      source: the documents that are scored, as in `data.source` ("hf:…", "tfds:…" or a path).
      pool: the documents of which examples are drawn; empty for documents of `source` that are
        then not scored.
      request: (document, examples) -> Request; examples: documents of the pool, the few shots.
      outcome: (document, response) -> the item's numbers.
      metrics: {metric: outcomes of all items -> Estimate}, the headline first.
      kind: of its requests: `likelihood`, `rolling` or `generation`.
    """

    name: str
    description: str
    source: str
    request: Callable[[Document, Sequence[Document]], Request]
    outcome: Callable[[Document, Response], Outcome]
    metrics: Mapping[str, Callable[[Sequence[Outcome]], Estimate]]
    kind: str
    pool: str = ""
