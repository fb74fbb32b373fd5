"""Templates over the fields of a record, and what is said of a record that does not fit.

A template is text with fields in braces, "{instruction}\\n{input}"; `{turns[0].text}` is inside of
a field, and `{{` and `}}` stand for braces. Nothing is evaluated.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping

from data.errors import DataError

# The value of a field that is there, and was not decoded since no template uses it.
UNREAD = object()


def one_of(what, value, choices: Mapping):
    """choices[value], or a DataError that names the nearest choice."""
    if value in choices:
        return choices[value]
    raise DataError(
        f"{value!r} is no {what}; did you mean {nearest(value, choices)!r}? "
        f"(choices: {', '.join(choices)})"
    )


def nearest(name, names) -> str:
    """The one of `names` that looks most like `name`; "" if there are none."""
    return next(iter(difflib.get_close_matches(str(name), sorted(names), 1, cutoff=0)), "")


def parse(name, template):
    """A template as [(literal, field or None), ...], a list of them as a list of those; plain
    fields and what is inside of them only: nothing is evaluated."""
    if isinstance(template, list | tuple) and template:
        return [parse(name, one) for one in template]
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


def fields_of(template) -> set[str]:
    """Names of the fields of a record that a parsed template may use: {a.b[0]} is a field of that
    name, or inside of `a`."""
    if template and isinstance(template[0], list):
        return set().union(*map(fields_of, template))
    fields = {field for _, field in template if field is not None}
    return fields | {step[1] for field in fields if (step := _STEP.match(field)) and step[1]}


def has(record, templates, name):
    return name in templates or name in record


def value_of(record, templates, name):
    """The value of `name` in a record: its template filled in, or the field of that name.

    A template of one bare field gives the field as it is, since it may hold a list; a list of
    templates gives the list of their values.
    """
    if name not in templates:
        return _field(record, name, name)
    if templates[name] and isinstance(templates[name][0], list):
        return [_filled(record, template, name) for template in templates[name]]
    return _filled(record, templates[name], name)


def _filled(record, template, name):
    if len(template) == 1 and template[0][0] == "" and template[0][1] is not None:
        value = _field(record, template[0][1], name)
        return str(value) if is_number(value) else value
    filled, empty = [], False
    for literal, field in template:
        filled.append(literal)
        if field is None:
            continue
        value = _field(record, field, name)
        if value is None:
            value = ""
        elif not isinstance(value, str) and not is_number(value):
            raise wrong_type(field, "a string", value)
        empty = empty or not str(value).strip()
        filled.append(str(value))
    return "".join(filled).strip() if empty else "".join(filled)


_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


def _inside(record, field):
    """The value at "a.b[0]" in dicts and lists; KeyError where there is none."""
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


def _field(record, field, name):
    """The value of a field by its name, or else inside of fields: "a.b[0]"."""
    if field in record:
        return record[field]
    try:
        return _inside(record, field)
    except KeyError:
        pass
    if not record:
        raise DataError("the record is empty: {}", "missing_field")
    near = nearest(field, record)
    listed = ", ".join(repr(key)[:40] for key in list(record)[:12])
    raise DataError(
        f"no field {field!r}; the nearest is {near[:40]!r} (the record has {listed}). "
        f'If another field holds it, say so: fields={{"{name}": "{{{near[:40]}}}"}}',
        "missing_field",
    )


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def wrong_type(name, wanted, value):
    if isinstance(value, bytes):  # of a column; text would have been decoded
        return DataError(
            f"{name!r} should be {wanted}, and is {len(value)} bytes that are not UTF-8, as an "
            "image has; take another column, or decode it when the file is made",
            "invalid_utf8",
        )
    shown = repr(value) if value is None or is_number(value) else f"a {type(value).__name__}"
    return DataError(f"{name!r} should be {wanted}, and is {shown[:60]}", "wrong_type")


def text_of(value, name):
    """`value` if it is a string that says something and can be written as UTF-8."""
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
