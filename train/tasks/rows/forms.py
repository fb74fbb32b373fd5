"""The forms of benchmarks: how a document becomes a request, and a response an outcome.

Each function makes a Task whose `prepare` returns documents of one form, so that examples, results
and a task of one's own are handled alike:

| form | fields of a document |
|---|---|
| `multiple_choice` | `context`, `choices`, `gold` (index); or `contexts`, one a choice |
| `last_word` | `context`, `continuation` (with the space before it) |
| `perplexity` | `text` |
| `generation` | `context`, `answer`; `target`: the text of an example, if it is another |

`preamble`, where a document has it, is text before the examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from train.tasks import metrics
from train.tasks.base import (
    Answer,
    Continuation,
    Document,
    Generation,
    Likelihoods,
    Metric,
    Outcome,
    Prompt,
    Request,
    Response,
    Rolling,
    Scored,
    Task,
)

SEPARATOR = "\n\n"  # between examples, as in lm-evaluation-harness
DELIMITER = " "  # between a question and its answer

Prepare = Callable[[Document], Sequence[Document]]
# (text of an answer, document) -> score
Score = Callable[[str, Document], float]


def prompt(
    question: str,
    turns: Sequence[tuple[str, str]],
    chat: bool,
    preamble: str = "",
    delimiter: str = DELIMITER,
) -> Prompt:
    """The prompt of a question.

    Args:
      turns: (question, answer) of examples.
      chat: as a conversation; the preamble is then its system message.
    """
    if not chat:
        shots = "".join(f"{asked}{delimiter}{said}{SEPARATOR}" for asked, said in turns)
        return f"{preamble}{shots}{question}"
    messages = [{"role": "system", "content": preamble.strip()}] if preamble.strip() else []
    for asked, said in turns:
        answer = {"role": "assistant", "content": said.lstrip()}
        messages += [{"role": "user", "content": asked}, answer]
    return (*messages, {"role": "user", "content": question})


def multiple_choice(
    name: str, description: str, source: str, prepare: Prepare,
    *, normalised: bool = True, delimiter: str = DELIMITER, **fields: Any,
) -> Task:  # fmt: skip
    """A task whose answer is the choice of the largest log-likelihood.

    Args:
      normalised: whether `acc_norm` and `acc_bytes` are reported: by the log-likelihood per
        character and per byte.
      delimiter: the text between the context and a choice. fields: others of Task.
    """

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        turns = [(_contexts(d)[d["gold"]], d["choices"][d["gold"]]) for d in examples]
        start = document.get("preamble", "")
        return Likelihoods(
            tuple(
                Continuation(
                    prompt(context, turns, chat, start, delimiter),
                    choice.lstrip() if chat else delimiter + choice,
                )
                for context, choice in zip(_contexts(document), document["choices"], strict=True)
            )
        )

    def outcome(document: Document, response: Response) -> Outcome:
        return _choice_outcome(document, response, normalised)

    reported = {"acc": metrics.mean("acc")}
    if normalised:
        reported |= {name: metrics.mean(name) for name in ("acc_norm", "acc_bytes")}
    reported["ece"] = Metric(metrics.calibration_error, higher_is_better=False)
    return Task(
        name, description, source, request, outcome, reported, "likelihood", prepare, **fields
    )


def _contexts(document: Document) -> Sequence[str]:
    """The context of each choice."""
    return document.get("contexts") or [document["context"]] * len(document["choices"])


def _choice_outcome(document: Document, response: Response, normalised: bool = True) -> Outcome:
    """The numbers of a multiple-choice item.

    Returns:
      acc: 1 if the gold choice has the largest log-likelihood, else 0; the first of equals counts.
      acc_norm, acc_bytes: so by the log-likelihood divided by the choice's number of characters,
      or of bytes. choice: the index of the largest. confidence: the softmax of the log-likelihoods,
      at its largest.
    """
    logprobs = np.array([scored.logprob for scored in scored_parts(response)], np.float64)
    choice, gold = int(np.argmax(logprobs)), document["gold"]
    outcome = {"acc": float(choice == gold)}
    if normalised:
        sizes = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode("utf-8"))}
        for metric, size in sizes.items():
            lengths = np.array([max(size(text), 1) for text in document["choices"]], np.float64)
            outcome[metric] = float(int(np.argmax(logprobs / lengths)) == gold)
    weights = np.exp(logprobs - logprobs.max())
    return {**outcome, "choice": choice, "confidence": float(weights.max() / weights.sum())}


def scored_parts(response: Response) -> Sequence[Scored]:
    """The response to a request for log-likelihoods."""
    assert all(isinstance(part, Scored) for part in response)
    return response  # type: ignore[return-value]


def last_word(name: str, description: str, source: str, prepare: Prepare, **fields: Any) -> Task:
    """A task of predicting a continuation: whether greedy decoding gives it, and its perplexity."""

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        turns = [(d["context"], d["continuation"]) for d in examples]
        context = prompt(document["context"], turns, chat, document.get("preamble", ""))
        text = document["continuation"]
        return Likelihoods((Continuation(context, text.lstrip() if chat else text),))

    def outcome(document: Document, response: Response) -> Outcome:
        (scored,) = scored_parts(response)
        return {"acc": float(scored.greedy), "loss": -scored.logprob}

    reported = {
        "acc": metrics.mean("acc"),
        "perplexity": Metric(metrics.perplexity, "loss", higher_is_better=False),
    }
    return Task(
        name, description, source, request, outcome, reported, "likelihood", prepare, **fields
    )


def perplexity(
    name: str, description: str, source: str, prepare: Prepare, stride: int = 0, **fields: Any
) -> Task:
    """A task of the log-likelihood of whole texts, per word and byte of the original.

    Args:
      prepare: gives `text`, which the model is given, and `original`, whose words and bytes count.
    """

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        del examples, chat  # a text has neither
        return Rolling(document["text"], stride)

    def outcome(document: Document, response: Response) -> Outcome:
        (scored,) = scored_parts(response)
        original = document.get("original", document["text"])
        return {
            "loss": -scored.logprob,
            "words": len(metrics.WHITE_SPACE.split(original)),
            "bytes": len(original.encode("utf-8")),
            "bits_per_byte": -scored.logprob / math.log(2) / max(len(original.encode("utf-8")), 1),
        }

    reported = {
        "word_perplexity": Metric(metrics.perplexity_per("words"), higher_is_better=False),
        "byte_perplexity": Metric(metrics.perplexity_per("bytes"), higher_is_better=False),
        "bits_per_byte": Metric(metrics.bits_per_byte, "bits_per_byte", higher_is_better=False),
    }
    return Task(name, description, source, request, outcome, reported, "rolling", prepare, **fields)


def generation(
    name: str, description: str, source: str, prepare: Prepare, scores: Mapping[str, Score],
    *, stop: tuple[str, ...] = (), max_new_tokens: int = 256, temperature: float = 0.0,
    samples: int = 1, passes: Sequence[int] = (), delimiter: str = DELIMITER, **fields: Any,
) -> Task:  # fmt: skip
    """A task that scores generated answers.

    Args:
      scores: {metric: score of an answer}, the headline first; of several samples the mean.
      passes: k of pass@k, of the headline, which is then 0 or 1. Other arguments: see Generation.
    """

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        turns = [(d["context"], d.get("target", d["answer"])) for d in examples]
        start = document.get("preamble", "")
        return Generation(
            prompt(document["context"], turns, chat, start, delimiter),
            max_new_tokens, stop, temperature, samples,
        )  # fmt: skip

    def outcome(document: Document, response: Response) -> Outcome:
        texts = [answer.text for answer in response if isinstance(answer, Answer)]
        values = {metric: [score(t, document) for t in texts] for metric, score in scores.items()}
        means = {metric: sum(of) / len(of) for metric, of in values.items()}
        first = next(iter(values.values()))
        return {**means, "samples": len(first), "passed": sum(value == 1 for value in first)}

    reported = {metric: metrics.mean(metric) for metric in scores}
    reported |= {f"pass@{k}": Metric(metrics.pass_at(k)) for k in passes}
    return Task(
        name, description, source, request, outcome, reported, "generation", prepare, **fields
    )
