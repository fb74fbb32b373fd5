"""Messages of a conversation: the forms that collections use, read into one.

A normalised message is {"role": "system" | "user" | "assistant" | "tool", "content": str} and, only
where the record has them, `tool_calls` (a list of objects), `reasoning_content`, `thinking`,
`reasoning`, `tool_call_id`, `name` (strings) and, of the assistant's, `weight`: a float other
than 1, the weight of its tokens in the loss. A field that is null or empty counts as not there,
since a table has all fields in all messages.
"""

from __future__ import annotations

import json
import re

from data.errors import DataError
from data.read.json_records import STRICT
from data.read.templates import text_of, wrong_type

# The field and the speakers' names as the collections in use have them.
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
_ROLES = {"human": "user", "customer": "user", "gpt": "assistant", "agent": "assistant"}
# Who may speak after whom; "" is the beginning.
_NEXT = {
    "": ("user", "system"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_WEIGHTS = ("weight", "train", "loss")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_TEXTS = (*_THOUGHTS, "tool_call_id", "name")
_KNOWN = {*_TEXTS, *_WEIGHTS}
# What an assistant's message may say beside its content.
ANSWER_FIELDS = ("tool_calls", *_THOUGHTS)
WEIGHTS, DEEPEST = (1e-6, 1e6), 64


class Record(dict):
    """A record that notes which of its fields are read.

    Attributes:
      read: names of the fields that were.
    """

    def __init__(self, fields):
        super().__init__(fields)
        self.read: set = set()
        self._unread_parts: list[str] = []

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def pass_over(self, name: str, keys) -> None:
        """Notes keys of an object that are not read. `name`: of the object, as "messages[3]"."""
        for key in keys:
            self._unread_parts.append(f"{re.sub(r'[0-9]+', '', name)}.{key}")

    def unread(self) -> list[str]:
        """Names of fields that hold something and were not read; of what is inside of fields, as
        "messages[].id", once for each."""
        fields = self.keys() - self.read
        return [name for name in fields if not is_empty(self.get(name))] + self._unread_parts


def is_empty(value) -> bool:
    """Whether an optional field says nothing."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | dict) and not value)


def texts_of(message: dict) -> list[str]:
    """All that a normalised message says: its content, thoughts and tool calls."""
    texts = [message["content"], *(message[key] for key in _THOUGHTS if key in message)]
    if calls := message.get("tool_calls"):
        texts.append(json.dumps(calls, ensure_ascii=False))
    return texts


def content_of(value, name: str, record: Record):
    """The text of a list of parts, joined; what is no list as it is.

    Raises:
      DataError: a part is no text.
    """
    if not isinstance(value, list):
        return value
    texts = []
    for i, part in enumerate(value):
        where = f"{name}[{i}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise wrong_type(where, 'text, or {"type": "text", "text": "..."}', part)
        kind = part.get("type") or "text"
        if kind not in _TEXT_PARTS:
            raise DataError(
                f"{where!r} is a part of type {str(kind)[:40]!r}, and messages of text alone are "
                "read; leave it out",
                "not_text",
            )
        if not isinstance(part.get("text"), str):
            raise wrong_type(f"{where}.text", "a string", part.get("text"))
        texts.append(part["text"])
        record.pass_over(where, (k for k in part.keys() - {"type", "text"} if part[k] is not None))
    return "".join(texts)


def objects_of(value, name: str) -> list[dict]:
    """A list of objects, given as such or as JSON: tool calls, or a record's tools; often empty.

    Raises:
      DataError: it is none, or holds what JSON cannot.
    """
    if isinstance(value, str):
        try:
            value = STRICT.decode(value)
        except DataError as error:
            raise DataError(f"{name!r}: {error}", error.reason) from None
        except (ValueError, RecursionError):
            pass  # it stays a string, which is refused below
    if is_empty(value):
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong_type(name, "a list of objects, or JSON of such a list", value)
    level, depth = [value], 0
    while level:
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inside for v in values if isinstance(v, dict | list)]
        depth += 1
    if depth > DEEPEST:
        raise DataError(f"{name!r} is nested more than {DEEPEST} deep", "wrong_type")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{name!r} holds what is no JSON: {error}", "wrong_type") from None
    return value


def weight_of(value, name: str) -> float:
    """The weight of an answer in the loss: a number, or true or false.

    Raises:
      DataError: it is none.
    """
    least, most = WEIGHTS
    if not isinstance(value, int | float) or not (value == 0 or least <= value <= most):
        wanted = f"0, to learn nothing from it, or a number from {least:g} to {most:g}"
        raise wrong_type(name, wanted, value)
    return float(value)


def message_of(message, name: str, record: Record, content_name: str = "") -> dict:
    """The normalised form of a message that may call its fields otherwise.

    Args:
      name, content_name: what errors call it and its content.

    Raises:
      DataError: it lacks a role or content, or a field is not of its type.
    """
    if not isinstance(message, dict):
        raise wrong_type(name, 'a {"role", "content"} object', message)
    if not is_empty(message.get("function_call")):
        raise DataError(
            f"{name} has a 'function_call', the old form of 'tool_calls'; write "
            '"tool_calls": [{"type": "function", "function": {"name": ..., "arguments": ...}}]',
            "old_form",
        )
    role_key, content_key = _key(message, _ROLE_KEYS), _key(message, _CONTENT_KEYS)
    calls = message.get("tool_calls")
    if calls is not None:
        calls = objects_of(calls, f"{name}.tool_calls")
    for key, found in (("role", role_key), ("content", content_key or calls)):
        if not found:
            raise DataError(
                f"{name} has no {key!r}; a message is "
                '{"role": "user" or "assistant", "content": "..."}',
                "missing_field",
            )
    role = message[role_key]
    if isinstance(role, str):
        role = _ROLES.get(role, role)
    content_name = content_name or f"{name}.content"
    content = content_of(message.get(content_key), content_name, record)
    if (role in ("system", "tool") or calls) and (content is None or content == ""):
        content = ""  # these may say nothing
    elif not (role == "system" and is_empty(content)):
        content = text_of(content, content_name)
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
    """The first of `names` that the message has and that is not null, else that it has."""
    for name in names:
        if message.get(name) is not None:
            return name
    return next((name for name in names if name in message), None)


def _other_fields(message: dict, role, name: str, record: Record) -> dict:
    """The texts and the weight of a message, where it has them."""
    out, weight = {}, 1.0
    for key in _TEXTS:
        if not is_empty(message.get(key)):
            out[key] = text_of(content_of(message[key], f"{name}.{key}", record), f"{name}.{key}")
    thoughts = {out[key] for key in _THOUGHTS if key in out}
    if len(thoughts) > 1:
        raise DataError(
            f"{name} has two thoughts that differ ({' and '.join(k for k in _THOUGHTS if k in out)}"
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


def messages_of(value, name: str, last, record: Record) -> list[dict]:
    """The normalised messages of a list whose last role is in `last`; an empty system message is
    left out.

    Raises:
      DataError: it is no such list, or the speakers do not take turns.
    """
    if not isinstance(value, list) or not value:
        raise wrong_type(name, "a list of messages, not empty", value)
    messages, before = [], ""
    for i, given in enumerate(value):
        message = message_of(given, f"{name}[{i}]", record)
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
