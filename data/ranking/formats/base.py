"""The parts that the formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from data.errors import DataError
from data.ranking.questions import Answer, Candidate, Question
from data.schemas.messages import Record, messages_of
from data.schemas.templates import required_text


class Given(NamedTuple):
    """An answer in a file. `time`: ISO 8601, or ""."""

    annotator: str
    answer: Answer
    time: str = ""


class Imported(NamedTuple):
    """A question of a file, and the answers to it there."""

    question: Question
    answers: Sequence[Given] = ()


Form = TypeVar("Form")


def converted(value: Any, form: type[Form], name: str) -> Form:
    """A JSON value as a structure.

    Raises:
      DataError: it has another form; the message says where.
    """
    try:
        return msgspec.convert(value, form)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DataError(f"{name}: {error}", "wrong_type") from None


def conversation(value: Any, name: str) -> list[dict]:
    """Messages from a text or a list of messages.

    Raises:
      DataError: it is neither.
    """
    if isinstance(value, list):
        return messages_of(value, name, ("user", "tool"), Record({}))
    return [{"role": "user", "content": required_text(value, name)}]


def candidates_of(texts: Mapping[str, Any], sources: Any) -> list[Candidate]:
    """Candidates from {name in the file: text}. `sources`: {name: source}, if the file has them."""
    known = converted(sources or {}, dict[str, dict[str, Any]], "sources")
    return [
        Candidate(required_text(text, name), known.get(name, {})) for name, text in texts.items()
    ]


def rank_of(levels: Sequence[Sequence[str]], names: Sequence[str]) -> list[int]:
    """The rank of each candidate, from the names of those on each level, best first; those that are
    not named come last.

    Raises:
      DataError: a name is that of no candidate, or is there twice.
    """
    places: dict[str, int] = {}
    for place, level in enumerate(levels):
        for name in level:
            if name not in names or name in places:
                raise DataError(
                    f"the ranking names {name!r:.60}, which is not one of the answers "
                    f"{', '.join(names):.200}, or is there twice", "bad_rank",
                )  # fmt: skip
            places[name] = place
    return [places.get(name, len(levels)) for name in names]
