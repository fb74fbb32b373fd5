"""Answers from passages: with the right ones, with wrong ones, with none, and as retrieved.

Each question is asked four times. A document has `condition`, `context`, `answer`, the `right` ids
of the passages that answer, of those `shown` in the prompt, and their text, `given`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data.config import DataConfig
from data.errors import DataError
from data.passages.config import PassagesConfig
from data.passages.grounding import RIGHT, SEARCH, WRONG, Grounder, open_grounder
from data.schemas.examples import content_key
from data.schemas.normaliser import normaliser
from data.splits import read_examples
from data.text.base import Tokenizer
from train.tasks import metrics
from train.tasks.base import (
    Answer,
    Document,
    Generation,
    Outcome,
    Request,
    Response,
    Task,
)
from train.tasks.rows import scores
from train.tasks.rows.scores import normalised

NONE = "none"
CONDITIONS = (RIGHT, WRONG, NONE, SEARCH)
MAX_NEW_TOKENS = 64
# Phrases of an answer that says that it does not know, besides `data.passages.unknown`.
UNKNOWN = (
    "do not know", "don't know", "cannot answer", "can't answer", "no information",
    "not mentioned", "does not say", "do not say", "doesn't say", "don't say",
    "none of the documents", "no document",
)  # fmt: skip
_CITATION = re.compile(r"\s*\[([^\[\]\n]{1,200})\]")


def split_citations(answer: str) -> tuple[str, set[str]]:
    """(an answer without its citations, the ids that it cites). Ids stand in brackets, with commas
    between several."""
    names = (name.strip() for group in _CITATION.findall(answer) for name in group.split(","))
    return _CITATION.sub("", answer).strip(), set(names)


def says_unknown(answer: str, unknown: str) -> bool:
    """Whether an answer says that it does not know: it begins as `unknown` does, or has a phrase of
    UNKNOWN."""
    text = answer.lower().replace("’", "'")
    start = normalised(unknown)
    return (bool(start) and normalised(answer).startswith(start)) or any(
        phrase in text for phrase in UNKNOWN
    )


def groundedness(answer: str, given: str) -> float:
    """The share of an answer's words that are in the passages, each as often at most: K-Precision
    (Adlakha et al. 2023, arXiv:2307.16877)."""
    words = normalised(answer).split()
    if not words:
        return 0.0
    common = Counter(words) & Counter(normalised(given).split())
    return sum(common.values()) / len(words)


def outcome_of(unknown: str, document: Document, response: Response) -> Outcome:
    """The numbers of an item, under the name of its condition.

    Returns:
      exact_match, f1: as SQuAD's, without citations. unknown: whether the answer says that it does
      not know. cited: whether it cites the passages that answer, and no others; where one does.
      grounded: `groundedness` of an answer to passages that does not say so. found: whether a
      passage that answers is among those retrieved.
    """
    (answer,) = (part.text for part in response if isinstance(part, Answer))
    text, cited = split_citations(answer)
    condition, right = document["condition"], document["right"]
    unsaid = says_unknown(text, unknown)
    numbers = {"unknown": float(unsaid)}
    if condition != WRONG:
        same = normalised(text) == normalised(document["answer"])
        numbers |= {"exact_match": float(same), "f1": scores.f1(text, document)}
    if condition == SEARCH and right is not None:
        numbers["found"] = float(bool(right))
    if right and condition in (RIGHT, SEARCH):
        numbers["cited"] = float(cited == set(right))
    if condition != NONE and not unsaid:
        numbers["grounded"] = groundedness(text, document["given"])
    return {f"{condition}_{name}": number for name, number in numbers.items()}


_BETTER_LOWER = ("right_unknown",)
_METRICS = {
    name: metrics.mean(name, name not in _BETTER_LOWER)
    for name in (
        "right_exact_match", "right_f1", "right_cited", "right_grounded", "right_unknown",
        "wrong_unknown", "wrong_grounded",
        "none_exact_match", "none_f1", "none_unknown",
        "search_exact_match", "search_f1", "search_cited", "search_grounded",
        "search_unknown", "search_found",
    )
}  # fmt: skip


def documents_of(grounder: Grounder, record: Document) -> list[Document]:
    """The documents of an example (data/schemas): `messages` that end with the answer, or `answer`
    beside them; `sources` and `passages` where it has them."""
    messages = list(record["messages"])
    answer = record.get("answer", "")
    if messages[-1]["role"] == "assistant":
        *messages, last = messages
        answer = last["content"]
    if not answer:
        raise DataError("no answer to compare with; a prompt needs one in the field 'answer'")
    at = max(i for i, message in enumerate(messages) if message["role"] == "user")
    question, names = messages[at]["content"], record.get("sources")
    known = bool(names or (names is None and record.get("passages")))
    key, documents = content_key(dict(record)), list[Document]()
    for condition in CONDITIONS:
        if condition in (RIGHT, WRONG) and not known:
            continue
        document = {"condition": condition, "answer": answer, "right": None, "given": ""}
        if condition == NONE:
            prompt = question
        else:
            grounded = grounder.question(
                question, record.get("passages"), names, answer, key, condition
            )
            prompt = grounded.prompt
            right = grounded.right if known else None
            document |= {"right": right, "given": grounded.documents}
        document["context"] = [
            {"role": m["role"], "content": prompt if i == at else m["content"]}
            for i, m in enumerate(messages)
        ]
        documents.append(document)
    return documents


def _request(
    max_new_tokens: int, document: Document, examples: Sequence[Document], chat: bool
) -> Request:
    del examples, chat  # grounded answers are turns of a conversation
    return Generation(tuple(document["context"]), max_new_tokens)


def grounded(
    name: str, description: str, config: PassagesConfig, open_one: Callable[[Tokenizer], Grounder],
    examples: Callable[[Document], list[Document]], *, source: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS, **fields: Any,
) -> Task:  # fmt: skip
    """The task of answering from passages.

    Args:
      open_one: the Grounder for a model's tokenizer. examples: record -> examples (data/schemas).
      fields: others of Task.
    """

    def unready(record: Document) -> list[Document]:
        raise DataError(f"task {name} counts tokens, and was given no tokenizer")

    def with_tokenizer(tokenizer: Tokenizer) -> Task:
        grounder = open_one(tokenizer)

        def prepare(record: Document) -> list[Document]:
            return [d for example in examples(record) for d in documents_of(grounder, example)]

        return dataclasses.replace(task, prepare=prepare)

    task = Task(
        name, description, source, functools.partial(_request, max_new_tokens),
        functools.partial(outcome_of, config.unknown), _METRICS, "generation", unready,
        with_tokenizer=with_tokenizer, **fields,
    )  # fmt: skip
    return task


_EXAMPLE = "seedpod_example"  # the key of a run's own example, where others are records of a file
_DESCRIPTION = "The run's held-out questions with right, wrong, no and retrieved passages"


def _of_run(config: DataConfig, schema: str) -> Task:
    """The task on the held-out examples of a run, with its own `data.passages`."""
    if not config.grounded:
        raise DataError(
            "task grounded: the run was trained without data.passages; name the model's questions "
            "and passages in a YAML file (kind: grounded), or a grounded run as --workdir"
        )
    if schema not in ("chat", "prompt"):
        raise DataError(f"task grounded: the run reads {schema} data, which has no answers")

    def records() -> Iterator[tuple[str, Document]]:
        examples = read_examples(config, schema).heldout
        if not examples:
            raise DataError("the run's rows were prepared, and its held-out questions are not kept")
        for example in examples:
            yield example["where"], {_EXAMPLE: example}

    def open_one(tokenizer: Tokenizer) -> Grounder:
        grounder = open_grounder(config, schema, tokenizer)
        assert grounder is not None
        return grounder

    as_example = normaliser(schema, config.fields)

    def examples_of(record: Document) -> list[Document]:
        return [record[_EXAMPLE] if _EXAMPLE in record else as_example(dict(record))]

    described = ", ".join(str(part.source) for part in config.sources().values())
    return grounded(
        "grounded", _DESCRIPTION, config.passages, open_one, examples_of,
        source=described, records=records, of_run=_of_run,
    )  # fmt: skip


def _open_none(tokenizer: Tokenizer) -> Any:
    raise DataError(
        "task grounded asks the held-out questions of a run with data.passages; name such a run as "
        "--workdir, or write the questions and passages in a YAML file (kind: grounded)"
    )


TASKS = (
    grounded("grounded", _DESCRIPTION, PassagesConfig(), _open_none, lambda record: [],
             of_run=_of_run),
)  # fmt: skip
