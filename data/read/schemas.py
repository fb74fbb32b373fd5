"""What a record of each schema looks like, and the one form in which the rest of Seedpod sees it.

Every schema maps a record (a dict, from a JSON line or from TFDS) to a normalised example:

    text        {"text": str}, and "weight": float where the record says so
    chat        {"messages": [...]}, the last one the assistant's
    prompt      {"messages": [...]}, the last one the user's or a tool's
    preference  {"messages": [...], "responses": [str], "rank": [int], "kinds": [str]}, and
                "confidence": float where the record says how sure its ranking is

All but text have "tools" (a list of objects) where the record has them. What a message is says
data/read/messages.py. The system's comes first if at all; the user's and the assistant's alternate
after
it, and results of tools follow the assistant's. A preference's messages end as a prompt's do;
`rank` counts from 0, lower is better, ties are allowed, and one response alone is good (0) or not
(1) by itself; a kind says how a response came about ("chosen", the kinds of a built-in corpus, ""
where nobody said). Weights (data/read/messages.py) are those of the tokens in the loss: a record's
multiplies its messages'.
"""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable

from data.errors import DataError
from data.read.messages import (
    ANSWER_FIELDS,
    Record,
    content_of,
    is_empty,
    message_of,
    messages_of,
    objects_of,
    weight_of,
)
from data.read.templates import (
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


def normaliser(schema: str, fields=(), unused: Counter | None = None) -> Callable[[dict], dict]:
    """A function from a record to a normalised example of `schema`.

    `fields` maps names of the schema to templates over the record's own fields, such as
    {"prompt": "{instruction}\\n{input}", "response": "{output}"}; {turns[0].text} is inside of a
    field, and a list of templates gives a list. A name without a template is the record's field of
    that name. `{{` and `}}` stand for braces; braces inside values are
    text like any other. Where a value is empty or null, the filled template is stripped, so that
    an optional field leaves no blank line behind. Fields of records, and of their messages, that
    hold something and are not read are counted in `unused`.

    Raises DataError at once for an unknown schema, name or template, and from the returned
    function, with a reason, for a record that does not fit.
    """
    convert, _ = one_of("schema", schema, _SCHEMAS)
    templates = _templates(schema, fields)

    def normalise(record):
        record = Record(record)
        example = convert(record, templates)
        if unused is not None:
            unused.update(record.unread())
        return example

    return normalise


# Of a record, true or false: whether it is learned from.
_FLAGS = ("train", "loss")


def fields_used(schema: str, fields=()) -> frozenset[str]:
    """Names of the fields of a record that the function of `normaliser` may look at: those in
    templates, and the schema's own where no template stands for them."""
    templates = _templates(schema, fields)
    own = {*_SCHEMAS[schema][1], "functions", *_FLAGS} - set(templates)  # `_tools`, `_weight`
    return frozenset(own.union(*map(fields_of, templates.values())))


def _templates(schema, fields) -> dict:
    _, names = one_of("schema", schema, _SCHEMAS)
    for name in dict(fields):
        one_of(f"field of the {schema} schema", name, dict.fromkeys(names))
    return {name: parse(name, template) for name, template in dict(fields).items()}


def _optional(record, templates, name):
    """The value of a field that a record may have, None where it has none, or an empty one; a field
    that a template has read stands for what the template says."""
    if name not in templates and (name not in record or name in record.read):
        return None
    value = value_of(record, templates, name)
    return None if is_empty(value) else value


# Conversations.


def _from_user(value, record, name="prompt"):
    """Messages that end with the user's or a tool's, from a string or a list of messages."""
    if isinstance(value, list):
        return messages_of(value, name, ("user", "tool"), record)
    return [{"role": "user", "content": text_of(value, name)}]


def _with_system(record, templates, messages):
    """`messages` behind the record's system message, if it has one and it says something."""
    system = content_of(_optional(record, templates, "system"), "system", record)
    if is_empty(system):
        return messages
    if messages[0]["role"] == "system":
        raise DataError("a 'system' field and a system message: keep one of them", "bad_roles")
    return [{"role": "system", "content": text_of(system, "system")}, *messages]


def _tools(record, templates):
    old = record.get("functions")
    if (
        isinstance(old, list)
        and old
        and isinstance(old[0], dict)
        and "functions" not in record.read
    ):
        raise DataError("'functions' is the old form of 'tools'; name it so", "old_form")
    tools = objects_of(_optional(record, templates, "tools"), "tools")
    return {"tools": tools} if tools else {}


def _weight(record, templates) -> float:
    value = _optional(record, templates, "weight")
    weight = 1.0 if value is None else weight_of(_number(value), "weight")
    for name in _FLAGS:  # as in a message; a number is a figure that someone measured
        if isinstance(record.get(name), bool):
            weight *= record[name]
    return weight


def _number(value):
    """The number that a string says, as a table's cell or a template does; else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _unweighted(messages, record):
    """Messages from which nothing is learned; where they have weights, these are not read."""
    for i, message in enumerate(messages):
        record.pass_over(f"messages[{i}]", {"weight"} & message.keys())
    return [{k: v for k, v in message.items() if k != "weight"} for message in messages]


def _holds_messages(record, templates):
    if {"prompt", "response"} & set(templates) or not has(record, templates, "messages"):
        return False
    return not _is_blank(record, templates, "messages", "prompt")


def _is_blank(record, templates, name, other):
    """Whether a field is empty in a record that has the `other` field, as tables of both have."""
    return name not in templates and is_empty(record.get(name)) and other in record


# The schemas.


def _text_example(record, templates):
    text = text_of(value_of(record, templates, "text"), "text")
    weight = _weight(record, templates)
    return {"text": text} | ({"weight": weight} if weight != 1 else {})


def _chat_example(record, templates):
    if _holds_messages(record, templates):
        messages = value_of(record, templates, "messages")
        messages = messages_of(messages, "messages", ("assistant",), record)
        messages = _with_system(record, templates, messages)
    else:
        messages = _from_user(value_of(record, templates, "prompt"), record)
        response = value_of(record, templates, "response")
        messages = _with_system(record, templates, messages)
        # Columns of the other names are seldom the answer's own: they take a template.
        keys = {"tool_calls", "reasoning_content", *(templates.keys() & {*ANSWER_FIELDS})}
        beside = {key: _optional(record, templates, key) for key in keys}
        answer = {"role": "assistant", "content": response} | beside
        messages.append(message_of(answer, "response", record, "response"))
    tools, weight = _tools(record, templates), _weight(record, templates)
    for message in messages:
        if weight != 1 and message["role"] == "assistant":
            message["weight"] = message.get("weight", 1.0) * weight
    return {"messages": messages} | tools


def _prompt_example(record, templates):
    """With `answer`, the reference that verifiers compare with, where there is one."""
    answer = {}
    if _holds_messages(record, templates):
        messages = value_of(record, templates, "messages")
        messages = messages_of(messages, "messages", ("user", "tool", "assistant"), record)
        if messages[-1]["role"] == "assistant":  # a chat record: what it answered is not asked
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
        messages = _from_user(value_of(record, templates, "prompt"), record)
    if "answer" in templates:
        answer["answer"] = text_of(value_of(record, templates, "answer"), "answer")
    elif is_number(value := record.get("answer")) or (isinstance(value, str) and value.strip()):
        if value != value or value in (math.inf, -math.inf):
            raise wrong_type("answer", "a finite number or a text", value)
        answer["answer"] = text_of(str(record["answer"]), "answer")
    messages = _with_system(record, templates, _unweighted(messages, record))
    return {"messages": messages} | answer | _tools(record, templates)


def _preference_example(record, templates):
    """Any of: chosen and rejected; chosen and a list of rejected; responses with a rank.

    A `confidence` beside them says how likely the ranking is right, as the share of people who gave
    it.
    """
    blank = _is_blank(record, templates, "responses", "chosen")
    if has(record, templates, "responses") and "chosen" not in templates and not blank:
        answers, rank, kinds = _ranked(record, templates)
    else:
        answers, rank, kinds = _chosen_rejected(record, templates)
    split = (_split_dialogue(*answer, record) for answer in answers)
    prefixes, responses = zip(*split, strict=True)
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
    prompt = _optional(record, templates, "prompt")
    if prompt is not None or not messages:
        if prompt is None:
            prompt = value_of(record, templates, "prompt")
        prompt = _from_user(prompt, record)
        if messages and messages[-len(prompt) :] != prompt:
            raise DataError(
                "'prompt' is not what the dialogues say before their last answer; "
                "leave one of the two out",
                "different_prefix",
            )
        messages = messages or prompt
    messages = _with_system(record, templates, _unweighted(messages, record))
    if _weight(record, templates) != 1:
        raise DataError(
            "a ranking has no 'weight'; 'confidence', from 0.5 to 1, says how sure it is",
            "bad_weight",
        )
    return (
        {"messages": messages, "responses": list(responses), "rank": rank, "kinds": kinds}
        | _confidence(record, templates)
        | _tools(record, templates)
    )


def _confidence(record, templates):
    given = _optional(record, templates, "confidence")
    if given is None:
        return {}
    value = _number(given)
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
    if isinstance(best, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", best):
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


def _split_dialogue(value, name, record):
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
    if len(value) == 1:
        only = message_of(value[0], f"{name}[0]", record)
        if only["role"] == "assistant":
            return [], _answer_text(only, name)
    *messages, answer = messages_of(value, name, ("assistant",), record)
    return messages, _answer_text(answer, name)


def _answer_text(message, name) -> str:
    """An answer of a ranking: text alone."""
    for key in (*ANSWER_FIELDS, "weight"):
        if key in message:
            raise DataError(
                f"the last message of {name!r} has {key!r}, and answers are ranked as texts alone; "
                "leave it out, or such rankings",
                "not_text",
            )
    return message["content"]


_SCHEMAS = {
    "text": (_text_example, ("text", "weight")),
    "chat": (
        _chat_example,
        ("messages", "prompt", "response", "system", *ANSWER_FIELDS, "tools", "weight"),
    ),
    "preference": (
        _preference_example,
        ("prompt", "chosen", "rejected", "responses", "rank", "best", "good", "confidence")
        + ("system", "tools", "weight"),
    ),
    "prompt": (_prompt_example, ("messages", "prompt", "system", "answer", "tools")),
}
