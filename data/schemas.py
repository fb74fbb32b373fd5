"""What a record of each schema looks like, and the one form in which the rest of Seedpod sees it.

Every schema maps a record (a dict, from a JSON line or from TFDS) to a normalised example:

    text        {"text": str}
    chat        {"messages": [...]}, the last one the assistant's
    prompt      {"messages": [...]}, the last one the user's
    preference  {"messages": [...], "responses": [str], "rank": [int], "kinds": [str]}, and
                "confidence": float where the record says how sure its ranking is

A message is {"role": "system" | "user" | "assistant", "content": str}. The system's comes first
if at all; the user's and the assistant's alternate after it. A preference's messages end with the
user's; `rank` counts from 0, lower is better, ties are allowed, and one response alone is good (0)
or not (1) by itself; a kind says how a response came about ("chosen", the kinds of a built-in
corpus, "" where nobody said).
"""

import contextlib
import re
from collections.abc import Callable

from data.templates import (
    DataError,
    fields_of,
    has,
    is_number,
    one_of,
    parse,
    text_of,
    value_of,
    wrong_type,
)

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def normaliser(schema: str, fields=()) -> Callable[[dict], dict]:
    """A function from a record to a normalised example of `schema`.

    `fields` maps names of the schema to templates over the record's own fields, such as
    {"prompt": "{instruction}\\n{input}", "response": "{output}"}; {turns[0].text} is inside of a
    field, and a list of templates gives a list. A name without a template is the record's field of
    that name. `{{` and `}}` stand for braces; braces inside values are
    text like any other. Where a value is empty or null, the filled template is stripped, so that
    an optional field leaves no blank line behind.

    Raises DataError at once for an unknown schema, name or template, and from the returned
    function, with a reason, for a record that does not fit.
    """
    convert, _ = one_of("schema", schema, _SCHEMAS)
    templates = _templates(schema, fields)
    return lambda record: convert(record, templates)


def fields_used(schema: str, fields=()) -> frozenset[str]:
    """Names of the fields of a record that the function of `normaliser` may look at: those in
    templates, and the schema's own where no template stands for them."""
    templates = _templates(schema, fields)
    own = set(_SCHEMAS[schema][1]) - set(templates)
    return frozenset(own.union(*map(fields_of, templates.values())))


def _templates(schema, fields) -> dict:
    _, names = one_of("schema", schema, _SCHEMAS)
    for name in dict(fields):
        one_of(f"field of the {schema} schema", name, dict.fromkeys(names))
    return {name: parse(name, template) for name, template in dict(fields).items()}


# Conversations.


# The field and the speakers' names as the collections in use have them.
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
_ROLES = {"human": "user", "customer": "user", "gpt": "assistant", "agent": "assistant"}


def _message(message, name):
    """{"role", "content"} of a message that may call them otherwise."""
    if not isinstance(message, dict):
        raise wrong_type(name, 'a {"role", "content"} object', message)
    out = {}
    for key, names in (("role", _ROLE_KEYS), ("content", _CONTENT_KEYS)):
        found = next((n for n in names if n in message), None)
        if found is None:
            raise DataError(
                f"{name} has no {key!r}; a message is "
                '{"role": "user" or "assistant", "content": "..."}',
                "missing_field",
            )
        out[key] = message[found]
    if isinstance(out["role"], str):
        out["role"] = _ROLES.get(out["role"], out["role"])
    return out | {"content": text_of(out["content"], f"{name}.content")}


def _messages(value, name, last):
    """A checked copy of a list of messages whose last role is in `last`."""
    if not isinstance(value, list) or not value:
        raise wrong_type(name, "a list of messages, not empty", value)
    messages = [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]
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
    return [{"role": "user", "content": text_of(value, name)}]


def _with_system(record, templates, messages):
    """`messages` behind the record's system message, if it has one and it says something."""
    system = value_of(record, templates, "system") if has(record, templates, "system") else None
    if system is None or (isinstance(system, str) and not system.strip()):
        return messages
    if messages[0]["role"] == "system":
        raise DataError("a 'system' field and a system message: keep one of them", "bad_roles")
    return [{"role": "system", "content": text_of(system, "system")}, *messages]


def _holds_messages(record, templates):
    return has(record, templates, "messages") and not {"prompt", "response"} & set(templates)


# The schemas.


def _text_example(record, templates):
    return {"text": text_of(value_of(record, templates, "text"), "text")}


def _chat_example(record, templates):
    if _holds_messages(record, templates):
        messages = _messages(value_of(record, templates, "messages"), "messages", ("assistant",))
    else:
        messages = _from_user(value_of(record, templates, "prompt"))
        response = text_of(value_of(record, templates, "response"), "response")
        messages.append({"role": "assistant", "content": response})
    return {"messages": _with_system(record, templates, messages)}


def _prompt_example(record, templates):
    """With `answer`, the reference that verifiers compare with, where there is one."""
    answer = {}
    if _holds_messages(record, templates):
        messages = _messages(
            value_of(record, templates, "messages"), "messages", ("user", "assistant")
        )
        if messages[-1]["role"] == "assistant":  # a chat record: what it answered is not asked
            answer["answer"] = messages.pop()["content"]
    else:
        messages = _from_user(value_of(record, templates, "prompt"))
    if "answer" in templates:
        answer["answer"] = text_of(value_of(record, templates, "answer"), "answer")
    elif isinstance(record.get("answer"), str) or is_number(record.get("answer")):
        answer["answer"] = str(record["answer"])
    return {"messages": _with_system(record, templates, messages)} | answer


def _preference_example(record, templates):
    """Any of: chosen and rejected; chosen and a list of rejected; responses with a rank.

    A `confidence` beside them says how likely the ranking is right, as the share of people who gave
    it.
    """
    if has(record, templates, "responses") and "chosen" not in templates:
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
    if has(record, templates, "prompt") or not messages:
        prompt = _from_user(value_of(record, templates, "prompt"))
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
    } | _confidence(record, templates)


def _confidence(record, templates):
    if not has(record, templates, "confidence"):
        return {}
    given = value_of(record, templates, "confidence")
    value = given
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            value = float(given)
    if not is_number(value) or not 0.5 <= value <= 1:
        raise wrong_type("confidence", "a number from 0.5 (nobody knows) to 1 (certain)", given)
    return {"confidence": float(value)}


def _ranked(record, templates):
    responses = value_of(record, templates, "responses")
    if not isinstance(responses, list) or len(responses) < (1 if "good" in templates else 2):
        raise wrong_type("responses", "a list of two responses or more", responses)
    rank = list(range(len(responses)))
    if "best" in templates:
        rank = _rank_of_best(value_of(record, templates, "best"), len(responses))
    elif "good" in templates:
        rank = [0 if _is_good(value) else 1 for value in value_of(record, templates, "good")]
    elif has(record, templates, "rank"):
        rank = value_of(record, templates, "rank")
        if not isinstance(rank, list) or any(type(place) is not int for place in rank):
            raise wrong_type("rank", "a list of whole numbers", rank)
    if len(rank) != len(responses):
        raise DataError(
            f"'rank' has {len(rank)} numbers for {len(responses)} responses", "bad_rank"
        )
    answers = [(response, f"responses[{i}]") for i, response in enumerate(responses)]
    kinds = [""] * len(responses)
    if len(responses) == 1:
        return answers, rank, kinds
    places = {place: i for i, place in enumerate(sorted(set(rank)))}
    if len(places) == 1:
        raise DataError("all responses are tied: there is nothing to prefer", "bad_rank")
    return answers, [places[place] for place in rank], kinds


def _rank_of_best(best, count):
    """Of the number of the best response, counted from 1; 0 says that none is better."""
    if isinstance(best, str) and best.strip().isdigit():
        best = int(best)
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best <= count:
        raise wrong_type("best", f"the number of a response, 1 to {count}, or 0", best)
    return [int(best not in (0, i)) for i in range(1, count + 1)]


def _is_good(value):
    """A thumb: true or false, a number that is 1 or 0, or such a word."""
    known = {"true": True, "1": True, "1.0": True, "up": True, "good": True, "yes": True}
    known |= {"false": False, "0": False, "0.0": False, "down": False, "bad": False, "no": False}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise wrong_type("good", "true or false", value)
    return found


def _chosen_rejected(record, templates):
    chosen = value_of(record, templates, "chosen")
    rejected = value_of(record, templates, "rejected")
    if not (isinstance(rejected, list) and all(_is_candidate(item) for item in rejected)):
        return [(chosen, "chosen"), (rejected, "rejected")], [0, 1], ["chosen", ""]
    if not rejected:
        raise DataError("'rejected' is an empty list: nothing was preferred to", "missing_field")
    answers = [(chosen, "chosen")]
    answers += [(item["text"], f"rejected[{i}].text") for i, item in enumerate(rejected)]
    kinds = ["chosen", *(text_of(item["kind"], "kind") for item in rejected)]
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
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return [], text_of(value, name)
    if len(value) == 1 and (only := _message(value[0], f"{name}[0]"))["role"] == "assistant":
        return [], only["content"]
    *messages, answer = _messages(value, name, ("assistant",))
    return messages, answer["content"]


_SCHEMAS = {
    "text": (_text_example, ("text",)),
    "chat": (_chat_example, ("messages", "prompt", "response", "system")),
    "preference": (
        _preference_example,
        ("prompt", "chosen", "rejected", "responses", "rank", "best", "good", "confidence")
        + ("system",),
    ),
    "prompt": (_prompt_example, ("messages", "prompt", "system", "answer")),
}
