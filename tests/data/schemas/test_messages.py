"""Fields of messages other than text: read, refused, or counted, and never silently lost."""

import functools
import json
import math
from collections import Counter

import pytest

from data.clean.redact import redact
from data.errors import DataError
from data.schemas.examples import example_text
from data.schemas.normaliser import normaliser

CALL = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]
DEEP = functools.reduce(lambda inner, _: {"a": [inner]}, range(400), {})
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def user(content="Q", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="A", **more):
    return {"role": "assistant", "content": content, **more}


def tool(content="R", **more):
    return {"role": "tool", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def read(record, schema="chat", fields=()):
    """(the example, the counts of unused fields)."""
    unused = Counter()
    return normaliser(schema, fields, unused)(record), unused


def chat(*messages, **record):
    return read({"messages": list(messages), **record})[0]["messages"]


def refused(record, message, schema="chat", fields=()):
    with pytest.raises(DataError, match=message) as error:
        read(record, schema, fields)
    assert error.value.reason  # so that on_bad can skip it


# Weights.


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({"weight": 0}, 0.0),
        ({"weight": 0.25}, 0.25),
        ({"weight": 3}, 3.0),
        ({"weight": False}, 0.0),
        ({"loss": False}, 0.0),
        ({"train": False}, 0.0),
        ({"train": 0}, 0.0),
        ({"weight": 2, "loss": True, "train": False}, 0.0),
        ({"weight": 2, "train": True}, 2.0),
    ],
)
def test_an_answer_s_weight(given, weight):
    assert chat(user(), assistant(**given), user(), assistant())[1::2] == [
        assistant(weight=weight),
        assistant(),
    ]
    spelled = {"from": "gpt", "value": "A", **given}
    record = {"said": [{"from": "human", "value": "Q"}, spelled]}
    example, unused = read(record, fields={"messages": "{said}"})
    assert example["messages"] == [user(), assistant(weight=weight)] and not unused


@pytest.mark.parametrize(
    "given", [{"weight": 1}, {"train": True}, {"loss": None}, {"weight": None}]
)
def test_a_weight_of_1_is_none(given):
    assert chat(user(), assistant(**given)) == [user(), assistant()]


@pytest.mark.parametrize(
    "value", ["0", "", -1, float("nan"), float("inf"), 1e30, 1e-30, [], 10**400]
)
def test_a_weight_that_is_no_number_is_refused(value):
    refused({"messages": [user(), assistant(weight=value)]}, r"messages\[1\]\.weight' should be 0")


@pytest.mark.parametrize("value", ["false", 2.5, float("nan"), []])
@pytest.mark.parametrize("key", ["train", "loss"])
def test_train_and_loss_are_true_or_false(key, value):
    record = {"messages": [user(), assistant(**{key: value})]}
    refused(record, rf"messages\[1\]\.{key}' should be true or false")


def test_a_weight_of_what_is_not_the_assistant_s():
    assert chat(user(weight=0, train=False), assistant()) == [user(), assistant()]
    for key in ("weight", "train", "loss"):
        refused(
            {"messages": [user(**{key: 1}), assistant()]}, rf"messages\[0\]\.{key} asks to learn"
        )


def test_a_record_s_weight_multiplies_its_answers():
    normalised = chat(user(), assistant(weight=0.5), user(), assistant(), weight=0.5)
    assert [m.get("weight") for m in normalised] == [None, 0.25, None, 0.5]
    example, _ = read({"prompt": "Q", "response": "A", "weight": 0})
    assert example["messages"] == [user(), assistant(weight=0.0)]
    assert read({"text": "a", "weight": 2}, "text") == ({"text": "a", "weight": 2.0}, Counter())
    assert read({"text": "a", "weight": "0.5"}, "text")[0]["weight"] == 0.5  # a table's cell
    assert read({"text": "a", "w": 0.5}, "text", {"weight": "{w}"})[0]["weight"] == 0.5
    for value in (-1, "x", "nan", float("inf"), [1]):
        refused({"text": "a", "weight": value}, "'weight' should be 0", "text")
    # A field that a template has read is not a weight.
    fields = {"prompt": "How heavy is {name}?", "response": "{weight}"}
    example, unused = read({"name": "it", "weight": 72.5}, fields=fields)
    assert example["messages"] == [user("How heavy is it?"), assistant("72.5")] and not unused


# Tools and thoughts.


def test_tool_calls_tools_and_thoughts_are_kept():
    turns = [
        user(),
        assistant("", tool_calls=CALL, reasoning_content="look it up"),
        tool("", tool_call_id="1", name="weather"),
        tool("sunny"),
        assistant(thinking="so"),
        user(),
        assistant(),
    ]
    record = {"messages": turns, "tools": TOOLS}
    assert read(record) == (record, Counter())
    given = [*turns]
    given[1] = turns[1] | {"content": None, "tool_calls": json.dumps(CALL), "weight": None}
    assert read({"messages": given, "tools": json.dumps(TOOLS)})[0] == record
    del given[1]["content"]
    assert read({"messages": given, "tools": json.dumps(TOOLS)})[0] == record
    asked, _ = read({"messages": turns[:4], "tools": TOOLS}, "prompt")
    assert asked == {"messages": turns[:4], "tools": TOOLS}
    pair, _ = read(
        {"prompt": turns[:4], "chosen": "a", "rejected": "b", "tools": TOOLS}, "preference"
    )
    assert (pair["messages"], pair["tools"]) == (turns[:4], TOOLS)


def test_thoughts_and_tool_calls_are_compared_and_redacted_as_texts_are():
    call = {"function": {"name": "mail", "arguments": {"to": ["ann@example.org"]}}}
    turns = [user(), assistant("", tool_calls=[call], thinking="ann@example.org asks", weight=0.5)]
    example, _ = read({"messages": turns})
    assert "ann@example.org asks" in example_text(example) and '"mail"' in example_text(example)
    counts = Counter()
    message = redact(example, ("email",), counts)["messages"][1]
    assert message["thinking"] == "[EMAIL] asks" and message["weight"] == 0.5
    assert message["tool_calls"][0]["function"] == {
        "name": "mail",
        "arguments": {"to": ["[EMAIL]"]},
    }
    assert counts == {"email": 2}


def test_null_and_empty_fields_are_as_if_not_there():
    empty = dict(
        tool_calls=None, reasoning_content="", thinking=None, name=None, weight=None, id=None
    )
    for calls in (None, [], "[]", "", "null"):
        record = {"messages": [user(**empty), assistant(**empty | {"tool_calls": calls})]}
        record |= {"tools": calls, "system": "", "url": None}
        assert read(record) == ({"messages": [user(), assistant()]}, Counter())
    refused(
        {"messages": [user(), assistant("", tool_calls=[])]}, r"messages\[1\]\.content' is empty"
    )
    refused({"messages": [user(), assistant(None)]}, "is None")


def test_a_thought_beside_a_response():
    record = {"prompt": "Q", "response": "A", "reasoning_content": "so"}
    assert read(record)[0]["messages"][1] == assistant(reasoning_content="so")
    record = {"prompt": "Q", "response": None, "tool_calls": CALL}
    assert read(record)[0]["messages"][1] == assistant("", tool_calls=CALL)
    record = {"prompt": "Q", "response": "A", "why": "so"}
    example, _ = read(record, fields={"thinking": "{why}"})
    assert example["messages"][1] == assistant(thinking="so")
    fields = {"response": "<think>{reasoning_content}</think>{response}"}
    example, unused = read(
        {"prompt": "Q", "response": "A", "reasoning_content": "so"}, fields=fields
    )
    assert example["messages"][1] == assistant("<think>so</think>A") and not unused


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"messages": [user(), assistant(tool_calls="call")]},
            r"messages\[1\]\.tool_calls' should",
        ),
        ({"messages": [user(), assistant(tool_calls=["call"])]}, "a list of objects"),
        (
            {"messages": [user(), assistant(tool_calls='[{"a": 1, "a": 2}]')]},
            r"tool_calls': the key 'a' is there twice",
        ),
        ({"messages": [user(), assistant()], "tools": '[{"a": 1e999}]'}, "1e999 is not finite"),
        ({"messages": [user(), assistant(tool_calls=[{"a": float("nan")}])]}, "is no JSON"),
        ({"messages": [user(), assistant(tool_calls=[{"a": "\ud800"}])]}, "is no JSON"),
        ({"messages": [user(), assistant(tool_calls=[{"a": b"x"}])]}, "is no JSON"),
        ({"messages": [user(), assistant(tool_calls=[DEEP])]}, "more than 64 deep"),
        ({"messages": [user(), assistant()], "tools": "[" * 5000}, "a list of objects"),
        ({"messages": [user(), assistant(thinking=True)]}, r"thinking' should be a string"),
        (
            {"messages": [user(), assistant(thinking="a", reasoning_content="b")]},
            r"messages\[1\] has two thoughts that differ \(reasoning_content and thinking\)",
        ),
        (
            {"messages": [user(), assistant(function_call={"name": "f"})]},
            "old form of 'tool_calls'",
        ),
        ({"messages": [user(), assistant()], "tools": "hammer"}, "'tools' should be a list"),
        ({"messages": [user(), assistant()], "functions": TOOLS}, "old form of 'tools'"),
        ({"messages": [tool(), assistant()]}, "from 'tool' where 'user'"),
        ({"messages": [user(), tool(), assistant()]}, "from 'tool' where 'assistant'"),
        (
            {"messages": [user(), assistant(), tool(), user(), assistant()]},
            "where 'assistant' or 'tool'",
        ),
        (
            {"messages": [user(), assistant("", tool_calls=CALL), tool()]},
            "should be from 'assistant'",
        ),
    ],
)
def test_what_is_refused(record, message):
    refused(record, message)


def test_answers_of_rankings_are_texts_alone():
    for more in ({"tool_calls": CALL}, {"reasoning_content": "so"}, {"weight": 0}):
        for record in (
            {"prompt": "Q", "chosen": [assistant(**more)], "rejected": "b"},
            {"chosen": "\n\nHuman: Q\n\nAssistant: b", "rejected": [user(), assistant(**more)]},
        ):
            refused(record, next(iter(more)), "preference")
    refused(
        {"prompt": "Q", "chosen": "a", "rejected": "b", "weight": 2}, "confidence", "preference"
    )
    before = [user(), assistant(weight=0.5), user()]
    record = {"prompt": before, "chosen": "a", "rejected": "b"}
    example, unused = read(record, "preference")
    assert example["messages"] == [user(), assistant(), user()]
    assert unused == {"messages[].weight": 1}


def test_a_prompt_s_reference_is_a_text():
    record = {"messages": [user(), assistant("42", reasoning_content="6*7", weight=0.5)]}
    example, unused = read(record, "prompt")
    assert example == {"messages": [user()], "answer": "42"}
    assert unused == {"messages[].reasoning_content": 1, "messages[].weight": 1}
    refused({"messages": [user(), assistant("", tool_calls=CALL)]}, "calls tools", "prompt")
    assert read({"prompt": "Q", "answer": ""}, "prompt")[0] == {"messages": [user()]}
    for value, message in (
        ("\ud800", "surrogate"),
        (float("nan"), "finite"),
        (-math.inf, "finite"),
    ):
        refused({"prompt": "Q", "answer": value}, message, "prompt")


# Content in parts, and empty messages.


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a", "image_url": None}, " b ", {"type": None, "text": "c"}]
    assert chat(system(parts), user(parts), assistant(parts)) == [
        system("a b c"),
        user("a b c"),
        assistant("a b c"),
    ]
    record = {"prompt": "Q", "response": parts, "system": [{"type": "text", "text": "s"}]}
    assert read(record)[0]["messages"] == [system("s"), user(), assistant("a b c")]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "x"}}],
            r"content\[0\]' is a part of type 'image",
        ),
        (["a", {"type": "input_audio"}], r"content\[1\]' is a part of type 'input_audio'"),
        ([{"type": "thinking", "thinking": "so"}], "type 'thinking'"),
        ([{"type": ["text"]}], "type"),
        ([{"image": "x"}], r"content\[0\]\.text' should be a string"),
        ([3], r"content\[0\]' should be text"),
        ([], "is empty"),
        ([{"type": "text", "text": " "}], "is empty"),
        ({"text": "a"}, "should be a string"),
    ],
)
def test_other_parts_are_refused(parts, message):
    refused({"messages": [user(parts), assistant()]}, message)
    refused({"messages": [user(), assistant(parts)]}, message)


@pytest.mark.parametrize("empty", ["", " \n", None, []])
def test_an_empty_system_message_is_none(empty):
    assert chat(system(empty), user(), assistant()) == [user(), assistant()]
    assert chat(system(empty), user(), assistant(), system="s")[0] == system("s")
    assert chat(system("s"), user(), assistant(), system=empty)[0] == system("s")
    asked = read({"messages": [system(empty), user()]}, "prompt")[0]
    assert asked == {"messages": [user()]}
    dialogue = {
        "chosen": [system(empty), user(), assistant("a")],
        "rejected": [user(), assistant("b")],
    }
    assert read(dialogue, "preference")[0]["messages"] == [user()]
    refused({"messages": [system(empty)]}, "no message but an empty system message")


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_empty_field_leaves_the_other_form(empty):
    assert chat(user(), assistant(), prompt=empty) == [user(), assistant()]
    record = {"messages": None if empty == "" else empty, "prompt": "Q", "response": "A"}
    assert read(record)[0]["messages"] == [user(), assistant()]
    record |= {"said": [user("other"), assistant()]}
    assert read(record, fields={"messages": "{said}"})[0]["messages"][0] == user("other")
    dialogues = {"chosen": [user(), assistant("a")], "rejected": [user(), assistant("b")]}
    example, _ = read(dialogues | {"prompt": empty, "responses": empty}, "preference")
    assert (example["messages"], example["responses"]) == ([user()], ["a", "b"])


# Unused fields.


def test_fields_that_are_not_used_are_counted():
    unused = Counter()
    convert = normaliser("chat", {"prompt": "{q} {meta.hint}"}, unused)
    for i in range(3):
        convert(
            {"q": "Q", "meta": {"hint": "h"}, "response": "A", "id": i, "url": None, "tag": "x"}
        )
    assert unused == {"id": 3, "tag": 3}
    messages = [
        user(id=1, empty=""),
        assistant([{"text": "A", "cache": {"a": 1}}], id=2, score=0.5),
    ]
    _, unused = read({"messages": messages, "prompt": "Q"})
    assert unused == {
        "prompt": 1,
        "messages[].id": 2,
        "messages[].score": 1,
        "messages[].content[].cache": 1,
    }
    _, unused = read({"prompt": "Q", "response": "A", "answer": [1]}, "prompt")
    assert unused == {"response": 1, "answer": 1}


@pytest.mark.parametrize("name", ["train", "loss"])
def test_a_flag_of_a_record_is_the_weight_of_its_answers(name):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    convert = normaliser("chat")
    assert convert({"messages": turns, name: False})["messages"][1]["weight"] == 0
    assert "weight" not in convert({"messages": turns, name: True})["messages"][1]
    assert "weight" not in convert({"messages": turns, name: 2.31})["messages"][1]
    assert normaliser("text")({"text": "t", name: False}) == {"text": "t", "weight": 0.0}
    with pytest.raises(DataError, match="a ranking has no 'weight'"):
        normaliser("preference")({"prompt": "p", "chosen": "c", "rejected": "r", name: False})


def test_a_confidence_that_is_null_is_none():
    ranking = {"prompt": "p", "chosen": "c", "rejected": "r", "confidence": None}
    assert "confidence" not in normaliser("preference")(ranking)
