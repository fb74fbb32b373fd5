"""From a record to a normalised example of a schema (data/schemas/__init__.py)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from data.errors import DataError
from data.schemas.fields import (
    FLAGS,
    PASSAGES,
    holds_messages,
    optional,
    passages_fields,
    prompt_messages,
    record_weight,
    tools_field,
    unweighted,
    with_system,
)
from data.schemas.messages import ANSWER_FIELDS, Record, message_of, messages_of
from data.schemas.preferences import preference_example
from data.schemas.templates import (
    fields_of,
    is_number,
    one_of,
    parse,
    required_text,
    value_of,
    wrong_type,
)


def normaliser(
    schema: str,
    fields: Mapping[str, Any] = {},
    unused: Counter | None = None,
    others: Collection[str] = (),
) -> Callable[[dict], dict]:
    """A function from a record to a normalised example of `schema`.

    Args:
      fields: {name of the schema: template over the record's fields}, such as
        {"prompt": "{instruction}\\n{input}", "response": "{output}"}; {turns[0].text} names a place
        inside a field, and a list of templates gives a list. A name without a template is the
        record's field of that name. `{{` and `}}` stand for braces; braces inside values are plain
        text. Where a value is empty or null, the filled template is stripped, so that an optional
        field leaves no blank line behind.
      unused: counts the fields of records and of their messages that hold something and are not
        read. others: fields that something else reads.

    Raises:
      DataError: at once for an unknown schema, name or template; from the returned function, with a
        reason, for a record that does not fit.
    """
    convert, _ = one_of("schema", schema, _SCHEMAS)
    templates = _templates(schema, fields)

    def normalise(record: dict) -> dict:
        record = Record(record)
        example = convert(record, templates) | passages_fields(record, templates)
        if unused is not None:
            unused.update(name for name in record.unread() if name not in others)
        return example

    return normalise


def fields_used(schema: str, fields: Mapping[str, Any] = {}) -> frozenset[str]:
    """Names of the record's fields that the function of `normaliser` may read: those in templates,
    and the schema's own where no template replaces them."""
    templates = _templates(schema, fields)
    # `functions` and the flags are read by fields.py's `tools_field` and `record_weight`.
    own = {*_SCHEMAS[schema][1], "functions", *FLAGS} - {*templates, *PASSAGES}
    return frozenset(own.union(*map(fields_of, templates.values())))


def _templates(schema: str, fields) -> dict:
    _, names = one_of("schema", schema, _SCHEMAS)
    for name in dict(fields):
        one_of(f"field of the {schema} schema", name, dict.fromkeys(names))
    return {name: parse(name, template) for name, template in dict(fields).items()}


def _text_example(record: Record, templates: Mapping) -> dict:
    text = required_text(value_of(record, templates, "text"), "text")
    weight = record_weight(record, templates)
    return {"text": text} | ({"weight": weight} if weight != 1 else {})


def _chat_example(record: Record, templates: Mapping) -> dict:
    if holds_messages(record, templates):
        messages = value_of(record, templates, "messages")
        messages = messages_of(messages, "messages", ("assistant",), record)
        messages = with_system(record, templates, messages)
    else:
        messages = prompt_messages(value_of(record, templates, "prompt"), record)
        response = value_of(record, templates, "response")
        messages = with_system(record, templates, messages)
        # A column of one of the other names is seldom the answer's: it needs a template.
        keys = {"tool_calls", "reasoning_content", *(templates.keys() & {*ANSWER_FIELDS})}
        others = {key: optional(record, templates, key) for key in keys}
        answer = {"role": "assistant", "content": response} | others
        messages.append(message_of(answer, "response", record, "response"))
    tools, weight = tools_field(record, templates), record_weight(record, templates)
    for message in messages:
        if weight != 1 and message["role"] == "assistant":
            message["weight"] = message.get("weight", 1.0) * weight
    return {"messages": messages} | tools


def _prompt_example(record: Record, templates: Mapping) -> dict:
    answer = {}
    if holds_messages(record, templates):
        messages = value_of(record, templates, "messages")
        messages = messages_of(messages, "messages", ("user", "tool", "assistant"), record)
        if messages[-1]["role"] == "assistant":  # a chat record: its answer is the reference
            *messages, last = messages
            if "tool_calls" in last:
                raise DataError(
                    "the last message calls tools, and an answer is compared with a text; end the "
                    "messages with the user's or a tool's",
                    "not_text",
                )
            answer["answer"] = last["content"]
            record.pass_over("messages[]", last.keys() & {*ANSWER_FIELDS, "weight", "name"})
    else:
        messages = prompt_messages(value_of(record, templates, "prompt"), record)
    if "answer" in templates:
        answer["answer"] = required_text(value_of(record, templates, "answer"), "answer")
    elif is_number(value := record.get("answer")) or (isinstance(value, str) and value.strip()):
        if value != value or value in (math.inf, -math.inf):
            raise wrong_type("answer", "a finite number or a text", value)
        answer["answer"] = required_text(str(record["answer"]), "answer")
    messages = with_system(record, templates, unweighted(messages, record))
    return {"messages": messages} | answer | tools_field(record, templates)


# {schema: (record and templates -> example, names of its fields)}
_SCHEMAS = {
    "text": (_text_example, ("text", "weight")),
    "chat": (
        _chat_example,
        ("messages", "prompt", "response", "system", *ANSWER_FIELDS, "tools", "weight", *PASSAGES),
    ),
    "preference": (
        preference_example,
        (
            "prompt",
            "chosen",
            "rejected",
            "responses",
            "rank",
            "best",
            "response",
            "good",
            "confidence",
        )
        + ("system", "tools", "weight", *PASSAGES),
    ),
    "prompt": (_prompt_example, ("messages", "prompt", "system", "answer", "tools", *PASSAGES)),
}
