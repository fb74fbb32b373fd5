"""Argilla's JSON, as `dataset.records.to_json` of Argilla 2 writes and `from_json` reads it.

A record has `fields`: `prompt` (a text, or messages) and the answers, all other fields; and
`responses`: `ranking` (the names of fields, best first), and `ideal` and `comment` (texts). Argilla
2 has no ties: those that are written are in the metadata. Those of Argilla 1, objects with `rank`,
are read.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from data.errors import DataError
from data.ranking.formats.base import (
    Given,
    Imported,
    candidates_of,
    conversation,
    converted,
    rank_of,
)
from data.ranking.questions import Answer, Question, Recorded

_PROMPTS = ("prompt", "messages", "instruction", "question", "input")
_METADATA = {"sources", "annotators", "ties"}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "seedpod/annotators")  # Argilla's users have UUIDs


class _Response(msgspec.Struct):
    value: Any
    user_id: str | None = None


class _Record(msgspec.Struct):
    fields: dict[str, Any]
    responses: dict[str, list[_Response]] | None = None
    metadata: dict[str, Any] | None = None
    suggestions: dict[str, Any] | None = None


def is_record(record: Mapping) -> bool:
    """Whether a record is one of Argilla's."""
    return isinstance(record.get("fields"), dict) and "responses" in record


def imported(record: Mapping, unread: Counter) -> Imported:
    """The question and the answers of a record.

    Args:
      unread: counts what is not used, by name.

    Raises:
      DataError: it has no prompt or no answers, or a response is malformed.
    """
    read = converted(record, _Record, "a record of Argilla")
    fields, metadata = read.fields, read.metadata or {}
    prompt = next((name for name in _PROMPTS if fields.get(name)), "")
    texts = {name: text for name, text in fields.items() if name != prompt and text}
    if not prompt or len(texts) < 2:
        raise DataError(
            "a record of Argilla needs the field 'prompt', and a field for each answer to compare",
            "missing_field",
        )
    unread.update(f"metadata.{name}" for name in metadata.keys() - _METADATA)
    unread.update(f"suggestions.{name}" for name in read.suggestions or {})
    candidates = candidates_of(texts, _json(metadata.get("sources")))
    question = Question(conversation(fields[prompt], f"fields.{prompt}"), candidates)
    return Imported(question, _given(read.responses or {}, list(texts), metadata, unread))


def _json(text: Any) -> dict:
    """An object in a field of the metadata, which holds texts and numbers alone."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _given(
    responses: Mapping[str, list[_Response]], names: list[str], metadata: Mapping, unread: Counter
) -> list[Given]:
    people, answers = _json(metadata.get("annotators")), dict[str, Answer]()
    for question, given in responses.items():
        for response in given:
            user, value = response.user_id or "someone", response.value
            answer = answers.setdefault(user, Answer())
            if isinstance(value, list):
                answer.rank = _rank(value, names)
            elif question in ("ideal", "comment") and isinstance(value, str):
                setattr(answer, question, value)
            else:
                unread[f"responses.{question}"] += 1
    for user, rank in _json(metadata.get("ties")).items():
        answers.setdefault(user, Answer()).rank = converted(rank, list[int], "metadata.ties")
    said = {user: a for user, a in answers.items() if a != Answer()}
    return [Given(str(people.get(user, user)), answer) for user, answer in said.items()]


class _Place(msgspec.Struct):
    value: str
    rank: int


def _rank(value: list, names: list[str]) -> list[int]:
    """Ranks from names, best first, or from {"value": name, "rank": …} objects."""
    if not value or isinstance(value[0], str):
        return rank_of([[name] for name in converted(value, list[str], "a ranking")], names)
    levels: dict[int, list[str]] = {}
    for place in converted(value, list[_Place], "a ranking"):
        levels.setdefault(place.rank, []).append(place.value)
    return rank_of([levels[rank] for rank in sorted(levels)], names)


def exported(question: Question, answers: list[Recorded]) -> dict[str, Any]:
    """A record. The names of annotators, what made the answers, and ties are in its metadata; a
    skipped question has no response."""
    names = [f"answer-{i + 1}" for i in range(len(question.candidates))]
    texts = (candidate.text for candidate in question.candidates)
    responses: dict[str, list] = {}
    people, ties = {}, {}
    for recorded in answers:
        user = str(uuid.uuid5(_NAMESPACE, recorded.annotator))
        people[user] = recorded.annotator
        said = recorded.answer
        if said.rank is not None and len(set(said.rank)) < len(names):
            ties[user] = said.rank
        elif said.rank is not None:
            order = sorted(range(len(names)), key=said.rank.__getitem__)
            value = [names[i] for i in order]
            responses.setdefault("ranking", []).append({"value": value, "user_id": user})
        for name in ("ideal", "comment"):
            if text := getattr(said, name):
                responses.setdefault(name, []).append({"value": text, "user_id": user})
    sources = {n: c.source for n, c in zip(names, question.candidates, strict=True) if c.source}
    metadata = {"annotators": people, "sources": sources, "ties": ties}
    return {
        "id": str(question.id),
        "fields": {"prompt": question.messages, **dict(zip(names, texts, strict=True))},
        "metadata": {name: json.dumps(value) for name, value in metadata.items() if value},
        "suggestions": {}, "responses": responses, "vectors": {},
    }  # fmt: skip
