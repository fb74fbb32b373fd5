"""What a record of each schema looks like, and the one form in which the rest of Seedpod sees it.

Every schema maps a record (a dict, from a JSON line or from TFDS) to a normalised example:

    text        {"text": str}
    chat        {"messages": [...]}, the last one the assistant's
    prompt      {"messages": [...]}, the last one the user's
    preference  {"messages": [...], "responses": [str], "rank": [int], "kinds": [str]}

A message is {"role": "system" | "user" | "assistant", "content": str}. The system's comes first
if at all; the user's and the assistant's alternate after it. A preference's messages end with the
user's; `rank` counts from 0, lower is better, ties are allowed; a kind says how a response came
about ("chosen", the kinds of a built-in corpus, "" where nobody said).
"""

import difflib
import re
import string
from collections.abc import Callable, Mapping

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class DataError(ValueError):
    """Bad input data. The message is for the person: what, where (file:line), why, what to type.

    `reason` is a short stable name where one record is at fault, so that it can be counted and
    skipped; it is "" where the source itself is at fault.
    """

    def __init__(self, message, reason=""):
        super().__init__(message)
        self.reason = reason


def normaliser(schema: str, fields=()) -> Callable[[dict], dict]:
    """A function from a record to a normalised example of `schema`.

    `fields` maps names of the schema to templates over the record's own fields, such as
    {"prompt": "{instruction}\\n{input}", "response": "{output}"}. A name without a template is
    the record's field of that name. `{{` and `}}` stand for braces; braces inside values are
    text like any other. Where a value is empty or null, the filled template is stripped, so that
    an optional field leaves no blank line behind.

    Raises DataError at once for an unknown schema, name or template, and from the returned
    function, with a reason, for a record that does not fit.
    """
    convert, names = one_of("schema", schema, _SCHEMAS)
    templates = {}
    for name, template in dict(fields).items():
        one_of(f"field of the {schema} schema", name, dict.fromkeys(names))
        templates[name] = _parse_template(name, template)
    return lambda record: convert(record, templates)


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


# Fields and templates.


def _parse_template(name, template):
    """A template as [(literal, field or None), ...]; plain fields only: nothing is evaluated."""
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


def _has(record, templates, name):
    return name in templates or name in record


def _value(record, templates, name):
    """The value of `name` in a record: its template filled in, or the field of that name.

    A template of one bare field gives the field as it is, since it may hold a list.
    """
    if name not in templates:
        return _field(record, name, name)
    template = templates[name]
    if len(template) == 1 and template[0][0] == "" and template[0][1] is not None:
        value = _field(record, template[0][1], name)
        return str(value) if _is_number(value) else value
    filled, empty = [], False
    for literal, field in template:
        filled.append(literal)
        if field is None:
            continue
        value = _field(record, field, name)
        if value is None:
            value = ""
        elif not isinstance(value, str) and not _is_number(value):
            raise _wrong_type(field, "a string", value)
        empty = empty or not str(value).strip()
        filled.append(str(value))
    return "".join(filled).strip() if empty else "".join(filled)


def _field(record, field, name):
    if field in record:
        return record[field]
    if not record:
        raise DataError("the record is empty: {}", "missing_field")
    near = nearest(field, record)
    listed = ", ".join(repr(key)[:40] for key in list(record)[:12])
    raise DataError(
        f"no field {field!r}; the nearest is {near[:40]!r} (the record has {listed}). "
        f'If another field holds it, say so: fields={{"{name}": "{{{near[:40]}}}"}}',
        "missing_field",
    )


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong_type(name, wanted, value):
    shown = repr(value) if value is None or _is_number(value) else f"a {type(value).__name__}"
    return DataError(f"{name!r} should be {wanted}, and is {shown[:60]}", "wrong_type")


def _text(value, name):
    """`value` if it is a string that says something and can be written as UTF-8."""
    if not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
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


# Conversations.


def _messages(value, name, last):
    """A checked copy of a list of messages whose last role is in `last`."""
    if not isinstance(value, list) or not value:
        raise _wrong_type(name, "a list of messages, not empty", value)
    messages = []
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise _wrong_type(f"{name}[{i}]", 'a {"role", "content"} object', message)
        for key in ("role", "content"):
            if key not in message:
                raise DataError(
                    f"{name}[{i}] has no {key!r}; a message is "
                    '{"role": "user" or "assistant", "content": "..."}',
                    "missing_field",
                )
        content = _text(message["content"], f"{name}[{i}].content")
        messages.append({"role": message["role"], "content": content})
    start = 1 if messages[0]["role"] == "system" else 0
    for i, message in enumerate(messages[start:], start):
        wanted = ("user", "assistant")[(i - start) % 2]
        if message["role"] != wanted:
            raise DataError(
                f"{name}[{i}] is from {str(message['role'])[:40]!r} where {wanted!r} should "
                "speak: one system message first if any, then user and assistant in turn",
                "bad_roles",
            )
    if messages[-1]["role"] not in last:
        raise DataError(
            f"the last of {name!r} is from {messages[-1]['role']!r}, and should be from "
            + " or ".join(map(repr, last)),
            "bad_roles",
        )
    return messages


def _from_user(value, name="prompt"):
    """Messages that end with the user's, from a string or a list of messages."""
    if isinstance(value, list):
        return _messages(value, name, ("user",))
    return [{"role": "user", "content": _text(value, name)}]


def _with_system(record, templates, messages):
    """`messages` behind the record's system message, if it has one and it says something."""
    system = _value(record, templates, "system") if _has(record, templates, "system") else None
    if system is None or (isinstance(system, str) and not system.strip()):
        return messages
    if messages[0]["role"] == "system":
        raise DataError("a 'system' field and a system message: keep one of them", "bad_roles")
    return [{"role": "system", "content": _text(system, "system")}, *messages]


def _holds_messages(record, templates):
    return "messages" in record and not {"prompt", "response"} & set(templates)


# The schemas.


def _text_example(record, templates):
    return {"text": _text(_value(record, templates, "text"), "text")}


def _chat_example(record, templates):
    if _holds_messages(record, templates):
        messages = _messages(record["messages"], "messages", ("assistant",))
    else:
        messages = _from_user(_value(record, templates, "prompt"))
        response = _text(_value(record, templates, "response"), "response")
        messages.append({"role": "assistant", "content": response})
    return {"messages": _with_system(record, templates, messages)}


def _prompt_example(record, templates):
    """With `answer`, the reference that verifiers compare with, where there is one."""
    answer = {}
    if _holds_messages(record, templates):
        messages = _messages(record["messages"], "messages", ("user", "assistant"))
        if messages[-1]["role"] == "assistant":  # a chat record: what it answered is not asked
            answer["answer"] = messages.pop()["content"]
    else:
        messages = _from_user(_value(record, templates, "prompt"))
    if "answer" in templates:
        answer["answer"] = _text(_value(record, templates, "answer"), "answer")
    elif isinstance(record.get("answer"), str) or _is_number(record.get("answer")):
        answer["answer"] = str(record["answer"])
    return {"messages": _with_system(record, templates, messages)} | answer


def _preference_example(record, templates):
    """Any of: chosen and rejected; chosen and a list of rejected; responses with a rank."""
    if _has(record, templates, "responses"):
        answers, rank, kinds = _ranked(record, templates)
    else:
        answers, rank, kinds = _chosen_rejected(record, templates)
    prefixes, responses = zip(*(_split_dialogue(*answer) for answer in answers), strict=True)
    best = {}
    for response, place in zip(responses, rank, strict=True):
        if best.setdefault(response.strip(), place) != place:
            raise DataError(
                f"two responses are the same text and ranked apart: {response.strip()[:60]!r}; "
                "there is nothing to prefer",
                "identical_responses",
            )
    if any(prefix != prefixes[0] for prefix in prefixes):
        raise DataError(
            "the dialogues differ before their last answer, so they do not compare answers to "
            "one prompt",
            "different_prefix",
        )
    messages = prefixes[0]
    if _has(record, templates, "prompt") or not messages:
        prompt = _from_user(_value(record, templates, "prompt"))
        if messages and messages[-len(prompt) :] != prompt:
            raise DataError(
                "'prompt' is not what the dialogues say before their last answer; "
                "leave one of the two out",
                "different_prefix",
            )
        messages = messages or prompt
    return {
        "messages": _with_system(record, templates, messages),
        "responses": list(responses),
        "rank": rank,
        "kinds": kinds,
    }


def _ranked(record, templates):
    responses = _value(record, templates, "responses")
    if not isinstance(responses, list) or len(responses) < 2:
        raise _wrong_type("responses", "a list of two responses or more", responses)
    rank = list(range(len(responses)))
    if _has(record, templates, "rank"):
        rank = _value(record, templates, "rank")
        if not isinstance(rank, list) or any(type(place) is not int for place in rank):
            raise _wrong_type("rank", "a list of whole numbers", rank)
    if len(rank) != len(responses):
        raise DataError(
            f"'rank' has {len(rank)} numbers for {len(responses)} responses", "bad_rank"
        )
    places = {place: i for i, place in enumerate(sorted(set(rank)))}
    if len(places) == 1:
        raise DataError("all responses are tied: there is nothing to prefer", "bad_rank")
    answers = [(response, f"responses[{i}]") for i, response in enumerate(responses)]
    return answers, [places[place] for place in rank], [""] * len(responses)


def _chosen_rejected(record, templates):
    chosen = _value(record, templates, "chosen")
    rejected = _value(record, templates, "rejected")
    if not (isinstance(rejected, list) and all(_is_candidate(item) for item in rejected)):
        return [(chosen, "chosen"), (rejected, "rejected")], [0, 1], ["chosen", ""]
    if not rejected:
        raise DataError("'rejected' is an empty list: nothing was preferred to", "missing_field")
    answers = [(chosen, "chosen")]
    answers += [(item["text"], f"rejected[{i}].text") for i, item in enumerate(rejected)]
    kinds = ["chosen", *(_text(item["kind"], "kind") for item in rejected)]
    return answers, [0] + [1] * len(rejected), kinds


def _is_candidate(item):
    return isinstance(item, dict) and {"kind", "text"} <= set(item)


def _split_dialogue(value, name):
    """(messages before the last answer, the last answer); no messages where it is a bare answer.

    A dialogue is a list of messages, or a string in the form of Anthropic's hh-rlhf:
    "\\n\\nHuman: ...\\n\\nAssistant: ...".
    """
    if isinstance(value, str) and _HH_TURN.match(value) and "\n\nAssistant:" in value:
        _, *parts = _HH_TURN.split(value)
        value = [
            {"role": _HH_ROLES[speaker], "content": content.strip()}
            for speaker, content in zip(parts[::2], parts[1::2], strict=True)
        ]
    if not isinstance(value, list):
        return [], _text(value, name)
    if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "assistant":
        return [], _text(value[0].get("content"), f"{name}[0].content")
    *messages, answer = _messages(value, name, ("assistant",))
    return messages, answer["content"]


_SCHEMAS = {
    "text": (_text_example, ("text",)),
    "chat": (_chat_example, ("prompt", "response", "system")),
    "preference": (
        _preference_example,
        ("prompt", "chosen", "rejected", "responses", "rank", "system"),
    ),
    "prompt": (_prompt_example, ("prompt", "system", "answer")),
}
