"""Messages of a conversation, normalised from the forms that data sets use.

A normalised message is {"role": "system" | "user" | "assistant" | "tool", "content": str}. Only
where the record has them it also holds `tool_calls` (a list of objects), `reasoning_content`,
`thinking`, `reasoning`, `tool_call_id`, `name` (strings), and for the assistant's `weight`: a float
other than 1, the weight of its tokens in the loss. A null or empty field counts as absent, because
a table has every field in every message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from data.errors import DataError
from data.read.json_records import STRICT
from data.schemas.templates import required_text, wrong_type

# Names of the fields and of the speakers in the data sets in use.
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
ROLES = {"human": "user", "customer": "user", "gpt": "assistant", "agent": "assistant"}
# The roles that may follow a role; "" is the beginning.
_NEXT = {
    "": ("user", "system"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_WEIGHTS = ("weight", "train", "loss")
# Names of a thought beside the content. Chat templates read the first, gpt-oss' the second.
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_TEXTS = (*THOUGHTS, "tool_call_id", "name")
_KNOWN = {*_TEXTS, *_WEIGHTS}
# What an assistant's message may say besides its content.
ANSWER_FIELDS = ("tool_calls", *THOUGHTS)
WEIGHT_RANGE, MAX_DEPTH = (1e-6, 1e6), 64


class Record(dict):
    """A record that notes which of its fields are read.

    Attributes:
      read: names of the fields that were read.
    """

    def __init__(self, fields: Mapping):
        super().__init__(fields)
        self.read: set = set()
        self._unread_parts: list[str] = []

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def pass_over(self, name: str, keys: Iterable[str]) -> None:
        """Notes keys of an object that are not read. `name`: the object's, such as
        "messages[3]"."""
        for key in keys:
            self._unread_parts.append(f"{re.sub(r'[0-9]+', '', name)}.{key}")

    def unread(self) -> list[str]:
        """Names of fields that hold something and were not read. A key inside a field is listed as
        "messages[].id", once for each message."""
        fields = self.keys() - self.read
        return [name for name in fields if not is_empty(self.get(name))] + self._unread_parts


def is_empty(value: Any) -> bool:
    """Whether the value of an optional field counts as absent."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | dict) and not value)


def texts_of(message: dict) -> list[str]:
    """All texts of a normalised message: its content, thoughts and tool calls."""
    texts = [message["content"], *(message[key] for key in THOUGHTS if key in message)]
    if calls := message.get("tool_calls"):
        texts.append(json.dumps(calls, ensure_ascii=False))
    return texts


def content_of(value: Any, name: str, record: Record) -> Any:
    """The joined text of a list of parts; a value that is no list is returned unchanged.

    Raises:
      DataError: a part is not text.
    """
    if not isinstance(value, list):
        return value
    texts = []
    for i, part in enumerate(value):
        part_name = f"{name}[{i}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise wrong_type(part_name, 'text, or {"type": "text", "text": "..."}', part)
        kind = part.get("type") or "text"
        if kind not in _TEXT_PARTS:
            raise DataError(
                f"{part_name!r} is a part of type {str(kind)[:40]!r}, and messages of text alone "
                "are read; leave it out",
                "not_text",
            )
        if not isinstance(part.get("text"), str):
            raise wrong_type(f"{part_name}.text", "a string", part.get("text"))
        texts.append(part["text"])
        unread = (key for key in part.keys() - {"type", "text"} if part[key] is not None)
        record.pass_over(part_name, unread)
    return "".join(texts)


def objects_of(value: Any, name: str) -> list[dict]:
    """A list of objects (tool calls, or a record's tools), given as a list or as JSON of one; []
    for an empty value.

    Raises:
      DataError: the value is something else, or holds what JSON cannot.
    """
    if isinstance(value, str):
        try:
            value = STRICT.decode(value)
        except DataError as error:
            raise DataError(f"{name!r}: {error}", error.reason) from None
        except (ValueError, RecursionError):
            pass  # a string is refused below
    if is_empty(value):
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong_type(name, "a list of objects, or JSON of such a list", value)
    level, depth = [value], 0
    while level:
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inside for v in values if isinstance(v, dict | list)]
        depth += 1
    if depth > MAX_DEPTH:
        raise DataError(f"{name!r} is nested more than {MAX_DEPTH} deep", "wrong_type")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{name!r} holds what is no JSON: {error}", "wrong_type") from None
    return value


def weight_of(value: Any, name: str) -> float:
    """A weight in the loss, from a number, or true or false.

    Raises:
      DataError: the value is no weight.
    """
    least, most = WEIGHT_RANGE
    if not isinstance(value, int | float) or not (value == 0 or least <= value <= most):
        wanted = f"0, to learn nothing from it, or a number from {least:g} to {most:g}"
        raise wrong_type(name, wanted, value)
    return float(value)


def message_of(message: Any, name: str, record: Record, content_name: str = "") -> dict:
    """The normalised form of a message whose fields may have other names.

    Args:
      name, content_name: names of the message and its content, for errors.

    Raises:
      DataError: it lacks a role or content, or a field has the wrong type.
    """
    if not isinstance(message, dict):
        raise wrong_type(name, 'a {"role", "content"} object', message)
    if not is_empty(message.get("function_call")):
        raise DataError(
            f"{name} has a 'function_call', the old form of 'tool_calls'; write "
            '"tool_calls": [{"type": "function", "function": {"name": ..., "arguments": ...}}]',
            "old_form",
        )
    role_key, content_key = _key(message, ROLE_KEYS), _key(message, CONTENT_KEYS)
    calls = message.get("tool_calls")
    if calls is not None:
        calls = objects_of(calls, f"{name}.tool_calls")
    for key, present in (("role", role_key), ("content", content_key or calls)):
        if not present:
            raise DataError(
                f"{name} has no {key!r}; a message is "
                '{"role": "user" or "assistant", "content": "..."}',
                "missing_field",
            )
    role = message[role_key]
    if isinstance(role, str):
        role = ROLES.get(role, role)
    content_name = content_name or f"{name}.content"
    content = content_of(message.get(content_key), content_name, record)
    if (role in ("system", "tool") or calls) and (content is None or content == ""):
        content = ""  # these may be empty
    elif not (role == "system" and is_empty(content)):
        content = required_text(content, content_name)
    out = {"role": role, "content": content}
    if calls:
        out["tool_calls"] = calls
    others = message.keys() - {role_key, content_key, "tool_calls"}
    if others:
        out |= _other_fields(message, role, name, record)
        others -= _KNOWN
        record.pass_over(name, (key for key in others if not is_empty(message[key])))
    return out


def _key(message: dict, names) -> str | None:
    """The first of `names` that is a key with a value other than null; else the first that is a
    key."""
    for name in names:
        if message.get(name) is not None:
            return name
    return next((name for name in names if name in message), None)


def _other_fields(message: dict, role, name: str, record: Record) -> dict:
    """The other texts and the weight of a message, where it has them."""
    out, weight = {}, 1.0
    for key in _TEXTS:
        if not is_empty(message.get(key)):
            text = content_of(message[key], f"{name}.{key}", record)
            out[key] = required_text(text, f"{name}.{key}")
    thoughts = {out[key] for key in THOUGHTS if key in out}
    if len(thoughts) > 1:
        raise DataError(
            f"{name} has two thoughts that differ ({' and '.join(k for k in THOUGHTS if k in out)}"
            "), and a chat template reads one; keep one of them",
            "two_thoughts",
        )
    for key in _WEIGHTS:
        value = message.get(key)
        if value is None:
            continue
        if key != "weight" and value not in (0, 1):
            raise wrong_type(f"{name}.{key}", "true or false", value)
        factor = weight_of(value, f"{name}.{key}")
        if factor and role != "assistant":
            raise DataError(
                f"{name}.{key} asks to learn from a message that is not the assistant's; leave it "
                "out there, or write 0",
                "bad_weight",
            )
        weight *= factor
    return out | ({"weight": weight} if weight != 1 and role == "assistant" else {})


def messages_of(value: Any, name: str, last: Collection[str], record: Record) -> list[dict]:
    """The normalised messages of a list whose last role is in `last`; an empty system message is
    left out.

    Raises:
      DataError: the value is no such list, or the roles do not alternate.
    """
    if not isinstance(value, list) or not value:
        raise wrong_type(name, "a list of messages, not empty", value)
    messages, before = [], ""
    for i, item in enumerate(value):
        message = message_of(item, f"{name}[{i}]", record)
        role = message["role"]
        if role == "system" and is_empty(message["content"]):
            continue
        if role not in _NEXT[before]:
            raise DataError(
                f"{name}[{i}] is from {str(role)[:40]!r} where "
                f"{' or '.join(map(repr, _NEXT[before]))} should speak: one system message first "
                "if any, then user and assistant in turn, a tool's results after the assistant",
                "bad_roles",
            )
        messages.append(message)
        before = role
    if not messages:
        raise DataError(f"{name!r} holds no message but an empty system message", "bad_roles")
    if before not in last:
        raise DataError(
            f"the last of {name!r} is from {before!r}, and should be from "
            + " or ".join(map(repr, last)),
            "bad_roles",
        )
    return messages
