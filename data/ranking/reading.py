"""Questions from files: prompts, prompts with answers to compare, and exports of other tools."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from data.errors import DataError
from data.ranking.formats import argilla, label_studio
from data.ranking.formats.base import Imported
from data.ranking.questions import Candidate, Question
from data.read.sources import changed_records
from data.schemas.normaliser import normaliser


class Read(NamedTuple):
    """The content of a file.

    Attributes:
      questions: each once. answers: for each, what people said of it there.
      repeated: records whose question was there before. unread: {what was not used: count}.
      changes: {change of a transform: count}.
    """

    questions: list[Question]
    answers: list[list]
    repeated: int
    unread: Counter
    changes: Counter


def read(
    source: str, fields: Mapping[str, str] = {}, gold: bool = False, records: str = "",
    transforms: Mapping[str, Any] = {},
) -> Read:  # fmt: skip
    """Reads questions from a file, by any reader of data/read/readers.py.

    A record is of schema `prompt`; or of schema `preference`, whose answers are compared anew; or
    an export of Label Studio or Argilla, whose annotations are taken over. The answers of a
    conversation that people have ended are left out.

    Args:
      fields, records, transforms: as those of `data`.
      gold: the ranking in the record is known to be right.

    Raises:
      DataError: a record is none of these, or the file holds none.
    """
    unread, changes = Counter[str](), Counter[str]()
    seen: dict[str, int] = {}
    questions, answers, repeated = [], [], 0
    for where, record in changed_records(source, "preference", records, transforms, changes):
        try:
            imported = _imported(record, fields, gold, unread)
            imported.question.where = where
            imported.question.check()
            msgspec.json.encode(imported)  # as the database will
        except (DataError, UnicodeEncodeError) as error:
            text = str(error)
            raise DataError(text if where in text else f"{where}: {text}", "bad_record") from None
        key = imported.question.key()
        if key in seen:
            repeated += 1
            answers[seen[key]] += imported.answers
            continue
        seen[key] = len(questions)
        questions.append(imported.question)
        answers.append(list(imported.answers))
    if not questions:
        raise DataError(f"{source} holds no prompt, so there is nothing to ask")
    return Read(questions, answers, repeated, unread, +changes)


def digest(questions: list[Question]) -> str:
    """A hash of a set of questions, whatever their order."""
    keys = sorted(question.key() for question in questions)
    return hashlib.sha256("".join(keys).encode()).hexdigest()


def _imported(
    record: dict[str, Any], fields: Mapping[str, str], gold: bool, unread: Counter
) -> Imported:
    """The question of a record, and the answers that it has."""
    for module in () if gold else (label_studio, argilla):
        if module.is_record(record):
            return module.imported(record, unread)
    ranked = any(name in record or name in fields for name in ("responses", "chosen"))
    if gold and not ranked:
        raise DataError("a gold question has its right ranking: 'chosen' and 'rejected', or "
                        "'responses' and 'rank'", "missing_field")  # fmt: skip
    example = normaliser("preference" if ranked else "prompt", fields, unread)(record)
    sources = record.get("sources")
    texts = example.get("responses", [])
    if not (isinstance(sources, list) and len(sources) == len(texts)):
        sources = [{}] * len(texts)
    candidates = [
        Candidate(text, source if isinstance(source, dict) else {"name": str(source)})
        for text, source in zip(texts, sources, strict=True)
    ]
    known = example["rank"] if gold else None
    question = Question(example["messages"], candidates, example.get("tools", []), gold=known)
    return Imported(question)
