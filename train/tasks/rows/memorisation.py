"""Memorisation: the share of training documents that a model continues word for word.

A document is memorised if greedy decoding, given its first words, gives the next ones (Carlini et
al. 2022, arXiv:2202.07646). Greedy decoding gives a text exactly if each of its tokens is the
likeliest after those before it, so that one pass scores it. Words, not tokens, are counted, so that
models of different tokenizers are asked the same.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Iterator, Sequence

from data.config import DataConfig
from data.errors import DataError
from data.splits import read_examples
from train.tasks import metrics
from train.tasks.base import (
    Continuation,
    Document,
    Likelihoods,
    Outcome,
    Prompt,
    Request,
    Response,
    Task,
)
from train.tasks.rows import fields
from train.tasks.rows.forms import scored_parts

PREFIX, LENGTH = 32, 32  # words; about 50 tokens each, as in the paper
MOST = 1000  # documents of a run

_WORD = re.compile(r"\s*\S+")


def split(text: str, prefix: int, length: int) -> tuple[str, str] | None:
    """(the first `prefix` words, the next `length` with the white space before them); None for a
    text of fewer words."""
    ends = [match.end() for match in _WORD.finditer(text)][: prefix + length]
    if len(ends) < prefix + length:
        return None
    start = ends[prefix - 1] if prefix else 0
    return text[:start], text[start : ends[-1]]


def memorisation(
    source: str = "", name: str = "memorisation", prefix: int = PREFIX, length: int = LENGTH,
    documents: str = "line",
) -> Task:  # fmt: skip
    """The task of continuing the documents of a source.

    A record has a `text`, whose first words are the prompt, or `messages` that end with an answer,
    or `prompt` and `response`: then the prompt is all before the answer, of which the first
    `length` words are scored. Shorter ones are left out.

    Args:
      source: training documents. prefix, length: in words. documents: see Task.
    """

    def of_run(config: DataConfig, schema: str) -> Task:
        if schema not in ("text", "chat"):
            raise DataError(
                f"task {name}: the run reads {schema} data, which has no answers to memorise; "
                f"name documents: --data=FOLDER with {name}.jsonl"
            )
        described = ", ".join(str(part.source) for part in config.sources().values())
        records = functools.partial(_training_records, config, schema)
        return dataclasses.replace(task, source=described, records=records)

    def prepare(record: Document) -> list[Document]:
        prompt: Prompt
        if "messages" in record:
            *before, last = fields.value(record, "messages")
            if not before or fields.text(last, "role") != "assistant":
                raise DataError("'messages' should end with an answer of the assistant")
            prompt, parts = tuple(before), split(fields.text(last, "content"), 0, length)
        elif fields.has(record, "prompt", "response"):
            prompt = fields.text(record, "prompt")
            parts = split(fields.text(record, "response"), 0, length)
        else:
            parts = split(fields.text(record, "text"), prefix, length)
            prompt = parts[0] if parts else ""
        return [{"context": prompt, "continuation": parts[1]}] if parts else []

    task = Task(
        name,
        f"Training documents continued word for word, {length} words after {prefix} (Carlini et "
        "al. 2022, arXiv:2202.07646)",
        source, _request, _outcome,
        {"memorised": metrics.mean("memorised", higher_is_better=False)},
        "likelihood", prepare, documents=documents, of_run=of_run,
    )  # fmt: skip
    return task


def _training_records(config: DataConfig, schema: str) -> Iterator[tuple[str, Document]]:
    """A seeded draw of MOST training documents of a run, in order; those held out are not among
    them."""
    examples = read_examples(config, schema).train
    if not examples:
        raise DataError("the run's rows were prepared; name their documents with --data=FOLDER")
    drawn = random.Random(0).sample(range(len(examples)), min(MOST, len(examples)))
    for number in sorted(drawn):
        yield examples[number]["where"], examples[number]


def _request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
    del examples, chat  # a document is continued as it was trained on
    return Likelihoods((Continuation(document["context"], document["continuation"]),))


def _outcome(document: Document, response: Response) -> Outcome:
    del document
    (scored,) = scored_parts(response)
    return {"memorised": float(scored.greedy), "loss": -scored.logprob}


TASKS = (memorisation(),)
