"""The fields that several schemas share. `templates`: {name: parsed template} (templates.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from data.errors import DataError
from data.schemas.messages import (
    Record,
    content_of,
    is_empty,
    messages_of,
    objects_of,
    weight_of,
)
from data.schemas.templates import has, is_number, required_text, value_of

# Fields of a record, true or false: whether it is learned from.
FLAGS = ("train", "loss")
# Fields of data.passages, which a template alone brings: their names are common in other senses.
PASSAGES = ("passages", "sources")


def optional(record: Record, templates: Mapping, name: str) -> Any:
    """The value of an optional field; None where it is absent or empty. A field that a template has
    read counts as absent under its own name."""
    if name not in templates and (name not in record or name in record.read):
        return None
    value = value_of(record, templates, name)
    return None if is_empty(value) else value


def number_of(value: Any) -> Any:
    """The number that a string spells, as in a table's cell or a template; otherwise `value`."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def is_blank(record: Record, templates: Mapping, name: str, other: str) -> bool:
    """Whether a field is empty in a record that has the field `other`, as in tables with both."""
    return name not in templates and is_empty(record.get(name)) and other in record


def holds_messages(record: Record, templates: Mapping) -> bool:
    """Whether a conversation is in `messages`, and not in `prompt` and `response`."""
    if {"prompt", "response"} & set(templates) or not has(record, templates, "messages"):
        return False
    return not is_blank(record, templates, "messages", "prompt")


def prompt_messages(value: Any, record: Record) -> list[dict]:
    """The messages of a `prompt`, a string or a list of messages; the user's or a tool's is
    last."""
    if isinstance(value, list):
        return messages_of(value, "prompt", ("user", "tool"), record)
    return [{"role": "user", "content": required_text(value, "prompt")}]


def with_system(record: Record, templates: Mapping, messages: list[dict]) -> list[dict]:
    """`messages`, after the record's system message if it has one."""
    system = content_of(optional(record, templates, "system"), "system", record)
    if is_empty(system):
        return messages
    if messages[0]["role"] == "system":
        raise DataError("a 'system' field and a system message: keep one of them", "bad_roles")
    return [{"role": "system", "content": required_text(system, "system")}, *messages]


def tools_field(record: Record, templates: Mapping) -> dict:
    """{"tools": objects}, or {} where the record has none."""
    old = record.get("functions")
    if (
        isinstance(old, list)
        and old
        and isinstance(old[0], dict)
        and "functions" not in record.read
    ):
        raise DataError("'functions' is the old form of 'tools'; name it so", "old_form")
    tools = objects_of(optional(record, templates, "tools"), "tools")
    return {"tools": tools} if tools else {}


def passages_fields(record: Record, templates: Mapping) -> dict[str, list]:
    """{"passages": [{"id", "text"}, …], "sources": [ids]}, as far as they have templates; a passage
    may have a "title"."""
    fields: dict[str, list] = {}
    if "passages" in templates:
        value = value_of(record, templates, "passages")
        items = value if isinstance(value, list) else [] if is_empty(value) else [value]
        passages = [_passage(item, n, record) for n, item in enumerate(items, 1)]
        ids = [passage["id"] for passage in passages]
        if twice := [name for name in ids if ids.count(name) > 1]:
            raise DataError(f"two of 'passages' have the id {twice[0]!r:.80}", "bad_passages")
        fields["passages"] = passages
    if "sources" in templates:
        value = value_of(record, templates, "sources")
        names = value if isinstance(value, list) else [] if is_empty(value) else [value]
        fields["sources"] = [str(name) if is_number(name) else name for name in names]
        for name in fields["sources"]:
            required_text(name, "sources")
    return fields


def _passage(item: Any, number: int, record: Record) -> dict[str, str]:
    """A passage of a record: a text, or an object with `text` or `content`."""
    name = f"passages[{number - 1}]"
    if not isinstance(item, dict):
        return {"id": str(number), "text": required_text(item, name)}
    key = "content" if "text" not in item and "content" in item else "text"
    passage = {"id": str(number), "text": required_text(item.get(key), f"{name}.{key}")}
    for other in ("id", "title"):
        if not is_empty(value := item.get(other)):
            passage[other] = required_text(str(value) if is_number(value) else value, other)
    record.pass_over(name, item.keys() - {key, "id", "title"})
    return passage


def record_weight(record: Record, templates: Mapping) -> float:
    """The weight of a record in the loss."""
    value = optional(record, templates, "weight")
    weight = 1.0 if value is None else weight_of(number_of(value), "weight")
    for name in FLAGS:  # as in a message; a number there is a measurement, not a flag
        if isinstance(record.get(name), bool):
            weight *= record[name]
    return weight


def unweighted(messages: list[dict], record: Record) -> list[dict]:
    """Messages that are not learned from, without weights; these are noted as not read."""
    for i, message in enumerate(messages):
        record.pass_over(f"messages[{i}]", {"weight"} & message.keys())
    return [{k: v for k, v in message.items() if k != "weight"} for message in messages]
