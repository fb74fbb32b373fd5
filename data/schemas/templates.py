"""Templates over the fields of a record, and the errors of a record that does not fit.

A template is text with fields in braces, "{instruction}\\n{input}"; `{turns[0].text}` names a place
inside a field, and `{{` and `}}` stand for braces. Nothing is evaluated.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from data.errors import DataError
from suggestions import nearest

# The value of a field that exists, and was not decoded because nothing reads it.
UNREAD = object()


def one_of(what: str, value: Any, choices: Mapping) -> Any:
    """choices[value], or a DataError that names the nearest choice."""
    if value in choices:
        return choices[value]
    raise DataError(
        f"{value!r} is no {what}; did you mean {nearest(str(value), sorted(choices), 0)!r}? "
        f"(choices: {', '.join(choices)})"
    )


def parse(name: str, template: Any) -> list:
    """A template as [(literal, field or None), ...]; for a list of templates a list of these."""
    if isinstance(template, list | tuple) and template:
        return [parse(name, item) for item in template]
    try:
        pieces = list(string.Formatter().parse(template))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"template {template!r} of {name!r} does not parse: {error}. "
            "Write {field} for a field of the record, and {{ or }} for a brace."
        ) from None
    for _, field, spec, conversion in pieces:
        if field == "" or spec or conversion:
            raise DataError(
                f"template {template!r} of {name!r}: a field is written {{field}}, with the name "
                "of a field of the record and nothing else; a brace is written {{ or }}."
            )
    return [(literal, field) for literal, field, _, _ in pieces]


def fields_of(template: list) -> set[str]:
    """Names of the record's fields that a parsed template may read: {a.b[0]} is a field of that
    name, or a place inside `a`."""
    if template and isinstance(template[0], list):
        return set().union(*map(fields_of, template))
    fields = {field for _, field in template if field is not None}
    return fields | {step[1] for field in fields if (step := _STEP.match(field)) and step[1]}


def has(record: Mapping, templates: Mapping, name: str) -> bool:
    """Whether `name` has a template, or is a field."""
    return name in templates or name in record


def value_of(record: Mapping, templates: Mapping, name: str) -> Any:
    """The value of `name` in a record: its template filled in, or the field of that name.

    A template of one bare field gives the field's value unchanged, since it may be a list; a list
    of templates gives the list of their values.
    """
    if name not in templates:
        return _field(record, name, name)
    if templates[name] and isinstance(templates[name][0], list):
        return [_filled(record, template, name) for template in templates[name]]
    return _filled(record, templates[name], name)


def _filled(record: Mapping, template: list, name: str) -> Any:
    if len(template) == 1 and template[0][0] == "" and template[0][1] is not None:
        value = _field(record, template[0][1], name)
        return str(value) if is_number(value) else value
    pieces, empty = [], False
    for literal, field in template:
        pieces.append(literal)
        if field is None:
            continue
        value = _field(record, field, name)
        if value is None:
            value = ""
        elif not isinstance(value, str) and not is_number(value):
            raise wrong_type(field, "a string", value)
        empty = empty or not str(value).strip()
        pieces.append(str(value))
    return "".join(pieces).strip() if empty else "".join(pieces)


_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


def inside(record: Mapping, field: str) -> Any:
    """The value at "a.b[0]" in dicts and lists; KeyError if there is none."""
    value, end = record, 0
    for step in _STEP.finditer(field):
        if step.start() != end:
            raise KeyError(field)
        key, index = step.groups()
        if key is not None and isinstance(value, dict) and key in value:
            value = value[key]
        elif index is not None and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            raise KeyError(field)
        end = step.end()
    if end != len(field):
        raise KeyError(field)
    return value


def _field(record: Mapping, field: str, name: str) -> Any:
    """The value of a field by its name, or else of a place inside a field, "a.b[0]"."""
    if field in record:
        return record[field]
    try:
        return inside(record, field)
    except KeyError:
        pass
    if not record:
        raise DataError("the record is empty: {}", "missing_field")
    if name == "prompt" and not {"chosen", "responses"} & record.keys():
        turns = [key for key in _CALLED["messages"].split() if isinstance(record.get(key), list)]
        if turns:  # a conversation, as in ShareGPT's files
            field = name = "messages"
    near = nearest(str(field), sorted(record)) or next(
        (key for key in _CALLED.get(name, "").split() if key in record), ""
    )
    listed = ", ".join(repr(key)[:40] for key in list(record)[:12])
    kind = next((kind for kind, own in _KINDS.items() if own <= record.keys()), "")
    fits = kind and name not in _KINDS[kind]
    raise DataError(
        f"no field {field!r}"
        + (f"; the nearest is {near[:40]!r}" if near else "")
        + f" (the record has {listed}{f', as {kind} have' if fits else ''}). "
        + f"If another field holds it, type --config.data.fields.{name}="
        + f"'{{{near[:40] or 'FIELD'}}}'",
        "missing_field",
    )


# {field of a schema: other names for it}
_CALLED = {
    "text": "content body document article passage story code",
    "messages": "conversations conversation turns dialogue chat",
    "prompt": "question instruction query input user problem",
    "response": "answer reply output completion response_text assistant target solution chosen",
    "chosen": "preferred better accepted winner response_j",
    "rejected": "dispreferred worse loser response_k",
    "answer": "label target solution final_answer",
}
# {kind of record: the fields by which it is known}
_KINDS = {
    "rankings": {"chosen", "rejected"},
    "conversations": {"messages"},
    "texts": {"text"},
}


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def wrong_type(name: str, wanted: str, value: Any) -> DataError:
    """The error for a value of the wrong type."""
    if isinstance(value, bytes):  # of a column; text would have been decoded
        return DataError(
            f"{name!r} should be {wanted}, and is {len(value)} bytes that are not UTF-8, as an "
            "image has; take another column, or decode it when the file is made",
            "invalid_utf8",
        )
    shown = repr(value) if value is None or is_number(value) else f"a {type(value).__name__}"
    return DataError(f"{name!r} should be {wanted}, and is {shown[:60]}", "wrong_type")


def required_text(value: Any, name: str) -> str:
    """`value`, a string that is not blank and can be encoded as UTF-8.

    Raises:
      DataError: it is something else.
    """
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    if not value.strip():
        raise DataError(f"{name!r} is empty", "empty_text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON's \ud800 alone: no tokenizer could take it
        raise DataError(
            f"{name!r} holds half a surrogate pair at character {error.start}, which is no "
            "Unicode text; write the file with ensure_ascii=False, or drop that character",
            "invalid_utf8",
        ) from None
    return value
