"""Conversations to replay: each answer of the assistant, with the messages before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data.errors import DataError
from data.read.sources import changed_records
from data.schemas.fields import holds_messages, with_system
from data.schemas.messages import Record, is_empty, messages_of
from data.schemas.normaliser import normaliser
from data.schemas.templates import parse, value_of
from data.transforms.registry import Change, root
from train.chat.passages import ChatPassages

CATEGORY = "category"
TURNS = ("last", "all")
_ROLES = ("system", "user", "assistant", "tool")


class Turn(NamedTuple):
    """An answer of a person, and the place where a model answers instead.

    Attributes:
      where: of the record. conversation: its number. number: of the answer in it, from 1.
      messages: before the answer, those of the people. answer: the person's.
      category: "" without one. harmful: what the record says of its request; None if nothing.
      documents: the text of the passages of the record, and of those in the prompt.
      question: the last message before the answer, without passages.
    """

    where: str
    conversation: int
    number: int
    messages: tuple[dict, ...]
    answer: str
    category: str
    harmful: bool | None
    documents: str
    question: str


class Conversations(NamedTuple):
    """The answers to replay.

    Attributes:
      turns: in the order of the source. whole: the messages of each conversation.
      notes: what is left out or not read, for people.
    """

    turns: list[Turn]
    whole: list[list[dict]]
    notes: list[str]

    @property
    def categories(self) -> list[str]:
        """The categories, by name."""
        return sorted({turn.category for turn in self.turns})


def read(
    source: str | Sequence[str], fields: Mapping[str, str] | None = None, category: str = "",
    turns: str = "last", limit: int = 0, records: str = "", transforms: Mapping[str, Any] = {},
) -> Conversations:  # fmt: skip
    """The conversations of a source.

    A record is a `chat` record (docs/data.md). It may also have a category, `harmful` (true or
    false) and `documents` (a text, or a list of texts or of objects with a `text`).

    Args:
      source, fields, records, transforms: as those of `data`. category: the field with the
        category, or a place in it as `meta.topic` or `tags[0]`; "" for `category` where records
        have it.
      turns: `last` replays the last answer of each conversation, `all` each one.
      limit: the most conversations, the first ones; 0 for all.

    Raises:
      DataError: a record cannot be read, or no conversation has an answer.
    """
    fields = fields or {}
    templates = {name: parse(name, template) for name, template in fields.items()}
    place = parse(CATEGORY, f"{{{category or CATEGORY}}}")
    unused, changes, unanswered, silent = Counter[str](), Counter[str](), 0, 0
    normalise = normaliser("chat", fields, unused)
    out = Conversations([], [], [])
    entries = source if isinstance(source, str) else tuple(source)
    for where, record in changed_records(entries, "chat", records, transforms, changes):
        if limit and len(out.whole) + unanswered == limit:
            break
        try:
            own = _category(record, place, bool(category))
            messages = _messages(record, templates, normalise, unused)
            harmful, documents = _harmful(record), _documents(record)
        except DataError as error:
            raise DataError(f"{where}: {error}", error.reason) from None
        spoken = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        places = [i for i in spoken if messages[i]["content"].strip()]
        silent += len(spoken) - len(places)
        if not places:
            unanswered += 1
            continue
        number = len(out.whole)
        out.whole.append(messages)
        chosen = list(enumerate(places, 1))[-1 if turns == "last" else 0 :]
        for count, i in chosen:
            answer = messages[i]["content"]
            before = tuple(messages[:i])
            question = messages[i - 1]["content"]
            out.turns.append(
                Turn(where, number, count, before, answer, own, harmful, documents, question)
            )
    _check(out, source, unanswered, changes)
    read_by_name = {root(category) or CATEGORY, "harmful", "documents"}
    for name in read_by_name | Change(transforms).reads:
        del unused[name]
    _note(out.notes, unanswered, silent, unused)
    out.notes.extend(f"{name}: {count:,}" for name, count in sorted(changes.items()) if count)
    return out


def grounded(turn: Turn, passages: ChatPassages) -> Turn:
    """A turn whose question has its passages; one that answers a tool stays as it is."""
    *before, last = turn.messages
    if last["role"] != "user":
        return turn
    found = passages.grounded(turn.question)
    messages = (*before, last | {"content": found.prompt})
    documents = "\n".join(filter(None, (turn.documents, found.documents)))
    return turn._replace(messages=messages, documents=documents)


def _messages(record: Any, templates: Mapping, normalise: Any, unused: Counter) -> list[dict]:
    """The messages of a record; they may end with another's than the assistant's."""
    record = Record(record)
    if not holds_messages(record, templates):
        messages = normalise(record)["messages"]
    else:
        listed = messages_of(value_of(record, templates, "messages"), "messages", _ROLES, record)
        messages = with_system(record, templates, listed)
        unused.update(record.unread())
    return [{k: v for k, v in message.items() if k != "weight"} for message in messages]


def _category(record: Mapping, template: list, required: bool) -> str:
    """The category of a record; "" where an optional one is missing."""
    try:
        value = value_of(record, {CATEGORY: template}, CATEGORY)
    except DataError as error:
        if not required or record.get(root(template[0][1]), 0) in ([], None):  # no tags
            return ""
        names = ", ".join(map(repr, list(record)[:12]))
        raise DataError(
            f"no field {template[0][1]!r:.60} for the category (the record has {names:.300}); "
            "type --category=FIELD",
            error.reason,
        ) from None
    if isinstance(value, Mapping | list):
        raise DataError(f"the category is a {type(value).__name__}; name a text", "wrong_type")
    return "" if value is None else " ".join(str(value).split())


def _harmful(record: Mapping) -> bool | None:
    value = record.get("harmful")
    if is_empty(value):
        return None
    if isinstance(value, str) and value.lower() in ("true", "false"):  # of a table
        value = value.lower() == "true"
    if not isinstance(value, bool):
        raise DataError(f"'harmful' is {value!r:.40}; it must be true or false", "wrong_type")
    return value


def _documents(record: Mapping) -> str:
    """The text of a record's passages."""
    value = record.get("documents")
    if is_empty(value):
        return ""
    parts = [value] if isinstance(value, str | Mapping) else value
    texts = []
    for part in parts if isinstance(parts, list) else [None]:
        text = part.get("text", part.get("content")) if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise DataError(
                "'documents' should be a text, or a list of texts or of objects with a 'text'",
                "wrong_type",
            )
        texts.append(text)
    return "\n".join(texts)


def _check(
    read: Conversations, source: str | Sequence[str], unanswered: int, changes: Counter
) -> None:
    if read.turns:
        return
    name = source if isinstance(source, str) else ", ".join(source)
    if unanswered:
        raise DataError(
            f"{name}: none of its {unanswered} conversations has an answer of the assistant, with "
            "which a replay compares; give some that people have answered"
        )
    left_out = "".join(f"\n  {reason}: {n:,}" for reason, n in sorted(changes.items()) if n)
    raise DataError(f"{name} holds no conversation{left_out}")


def _note(notes: list[str], unanswered: int, silent: int, unused: Counter) -> None:
    if unanswered:
        notes.append(f"{unanswered:,} conversations without an answer of the assistant, left out")
    if silent:
        notes.append(f"{silent:,} answers without a text, as calls of tools, are not replayed")
    if names := sorted(name for name, count in unused.items() if count):
        notes.append(f"fields that are not read: {', '.join(names)}")
