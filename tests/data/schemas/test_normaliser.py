"""Records to normalised examples: every accepted form, and every refused one."""

import pytest

from data.errors import DataError
from data.schemas.normaliser import fields_used, normaliser


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def refused(schema, record, reason, message, fields=()):
    with pytest.raises(DataError, match=message) as error:
        normaliser(schema, fields)(record)
    assert error.value.reason == reason


# Templates.

ALPACA = {"prompt": "{instruction}\n{input}", "response": "{output}"}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"instruction": "Add.", "input": "1 + 1"}, "Add.\n1 + 1"),
        ({"instruction": "Say hi.", "input": ""}, "Say hi."),
        ({"instruction": "Say hi.", "input": None}, "Say hi."),
        ({"instruction": "Keep {this} and {0}.", "input": "{}"}, "Keep {this} and {0}.\n{}"),
        ({"instruction": "  indented", "input": 7}, "  indented\n7"),
    ],
)
def test_templates(record, prompt):
    example = normaliser("chat", ALPACA)({**record, "output": "{done}"})
    assert example == {"messages": [user(prompt), assistant("{done}")]}


def test_a_template_may_hold_braces_numbers_and_dots():
    fields = {"prompt": "{{{a.b}}}", "response": "{n}", "system": "Be brief."}
    assert normaliser("chat", fields)({"a.b": "x", "n": 4})["messages"] == [
        system("Be brief."),
        user("{x}"),
        assistant("4"),
    ]


def test_the_fields_that_are_used():
    assert fields_used("text") >= {"text"}
    used = fields_used("text", {"text": "{a.b[0]} {{c}} {d}"})
    assert used >= {"a.b[0]", "a", "d"} and not used & {"text", "c", "b"}
    used = fields_used("preference", {"responses": ["{x}", "{y[1]}"], "best": "{z}"})
    assert used >= {"x", "y", "z", "prompt", "system"} and not used & {"responses", "best"}


def test_a_text_template():
    fields = {"text": "# {title}\n\n{body}"}
    assert normaliser("text", fields)({"title": "T", "body": "B"}) == {"text": "# T\n\nB"}


@pytest.mark.parametrize("template", ["{", "}", "{}", "{a", "{a:>9}", "{a!r}", 3, None])
def test_a_broken_template_is_refused_before_any_record(template):
    with pytest.raises(DataError, match=r"template .* of 'prompt'") as error:
        normaliser("chat", {"prompt": template})
    assert error.value.reason == ""


def test_a_template_of_missing_or_wrong_fields():
    message = (
        r"no field 'input'; the nearest is 'inputs' \(the record has 'instruction', 'inputs'\)"
    )
    refused("chat", {"instruction": "a", "inputs": ""}, "missing_field", message, ALPACA)
    message = r"type --config\.data\.fields\.response='\{reponse\}'"
    refused("chat", {"prompt": "a", "reponse": "b"}, "missing_field", message)
    message = r"no field 'prompt'; the nearest is 'question' \(the record has 'question', 'x'\)"
    refused("chat", {"question": "a", "x": "b"}, "missing_field", message)
    message = r"no field 'messages'; the nearest is 'conversations'.*fields\.messages='{conver"
    refused("chat", {"conversations": [{"from": "human", "value": "a"}]}, "missing_field", message)
    message = r"no field 'chosen' \(the record has 'messages', as conversations have\)\. If another"
    refused("preference", {"messages": []}, "missing_field", message)
    record = {"instruction": [], "input": "", "output": "x"}
    refused("chat", record, "wrong_type", "'instruction' should be a string", ALPACA)
    record = {"instruction": "", "input": None, "output": "x"}
    refused("chat", record, "empty_text", "'prompt' is empty", ALPACA)


def test_a_template_reaches_inside_of_a_field_and_a_list_of_them_gives_a_list():
    record = {"turns": [{"text": "a"}, {"text": "b.c"}], "x.y": "z", "one": {"good": True}}
    fields = {"prompt": "{turns[0].text}-{x.y}", "response": "{turns[1].text}"}
    assert normaliser("chat", fields)(record)["messages"] == [user("a-z"), assistant("b.c")]
    for wrong in (
        "{turns[2].text}",
        "{turns.text}",
        "{turns[0]text}",
        "{turns[0].text.}",
        "{one[0]}",
    ):
        refused("chat", record, "missing_field", "no field", {"prompt": wrong, "response": "a"})
    fields = {"prompt": "p", "responses": ["{turns[0].text}", "{turns[1].text}"], "best": "2"}
    example = normaliser("preference", fields)(record)
    assert (example["responses"], example["rank"]) == (["a", "b.c"], [1, 0])


@pytest.mark.parametrize(
    ("templates", "rank"),
    [
        ({"best": "{label}"}, [0, 1, 1]),
        ({"best": "{three}"}, [1, 1, 0]),
        ({"good": ["{yes}", "{no}", "{yes}"]}, [0, 1, 0]),
        ({"good": ["{no}", "{number}", "{no}"]}, [1, 0, 1]),
    ],
)
def test_which_response_is_best_or_good(templates, rank):
    record = {"label": 1, "three": "3", "yes": True, "no": "False", "number": 1.0}
    fields = {"prompt": "p", "responses": ["a", "b", "c"], **templates}
    assert normaliser("preference", fields)(record)["rank"] == rank
    none = {"prompt": "p", "responses": ["a", "b"]}
    refused("preference", {"l": 0}, "bad_rank", "tied", none | {"best": "{l}"})
    refused("preference", {"l": 3}, "wrong_type", "1 to 2, or 0", none | {"best": "{l}"})
    refused(
        "preference", {"l": "x"}, "wrong_type", "true or false", none | {"good": ["{l}", "{l}"]}
    )


@pytest.mark.parametrize("value,rank", [(True, 0), ("down", 1)])
def test_one_response_is_good_or_not_by_itself(value, rank):
    fields = {"prompt": "p", "responses": ["{output}"], "good": ["{label}"]}
    example = normaliser("preference", fields)({"output": "a", "label": value})
    assert (example["responses"], example["rank"], example["kinds"]) == (["a"], [rank], [""])
    assert normaliser("preference")({"prompt": "p", "response": "a", "good": value}) == example
    names = {"response": "{output}", "good": "{label}"}
    record = {"prompt": "p", "output": "a", "label": value}
    assert normaliser("preference", names)(record) == example
    alone = {"prompt": "p", "responses": ["{output}"]}
    refused("preference", {"output": "a"}, "wrong_type", "two responses or more", alone)


def test_messages_by_the_names_that_collections_use():
    wanted = [user("a"), assistant("b")]
    for messages in (
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        [{"speaker": "customer", "text": "a"}, {"speaker": "agent", "text": "b"}],
    ):
        assert normaliser("chat", {"messages": "{said}"})({"said": messages})["messages"] == wanted
    record = {
        "said": messages[:1],
        "chosen": messages[1],
        "rejected": {"from": "gpt", "value": "c"},
    }
    example = normaliser("preference", {"prompt": "{said}"})(record)
    assert (example["messages"], example["responses"]) == ([user("a")], ["b", "c"])


# Chats and prompts.


def test_chats():
    messages = [system("s"), user("a"), assistant("b"), user("c"), assistant(" d\n")]
    convert = normaliser("chat")
    assert convert({"messages": messages, "prompt": "ignored"}) == {"messages": messages}
    extra = [{**message, "id": "x"} for message in messages]
    assert convert({"messages": extra}) == {"messages": messages}
    assert convert({"messages": messages[1:], "system": "s"}) == {"messages": messages}
    expected = {"messages": messages[1:3]}
    assert convert({"prompt": "a", "response": "b"}) == expected
    assert convert({"prompt": "a", "response": "b", "system": " "}) == expected
    record = {"messages": messages, "q": "a", "a": "b"}
    assert normaliser("chat", {"prompt": "{q}", "response": "{a}"})(record) == expected
    before = {"prompt": messages[:4], "response": " d\n"}
    assert convert(before) == {"messages": messages}


@pytest.mark.parametrize(
    ("messages", "reason", "message"),
    [
        ([], "wrong_type", "a list of messages, not empty"),
        ("hi", "wrong_type", "a list of messages"),
        (["hi"], "wrong_type", r"messages\[0\]"),
        ([{"by": "human", "value": "a"}], "missing_field", r"messages\[0\] has no 'role'"),
        ([{"role": "user"}], "missing_field", "no 'content'"),
        ([user("a")], "bad_roles", "the last of 'messages' is from 'user'"),
        ([system("a")], "bad_roles", "the last of 'messages' is from 'system'"),
        ([assistant("a")], "bad_roles", r"messages\[0\] is from 'assistant' where 'user'"),
        ([user("a"), user("b")], "bad_roles", r"messages\[1\] is from 'user' where 'assistant'"),
        ([user("a"), system("b")], "bad_roles", r"messages\[1\] is from 'system'"),
        ([{"role": "tool", "content": "a"}], "bad_roles", "from 'tool'"),
        ([{"role": None, "content": "a"}], "bad_roles", "from 'None'"),
        ([user("a"), assistant("")], "empty_text", r"messages\[1\].content' is empty"),
        ([user("a"), assistant(None)], "wrong_type", "is None"),
        ([user([{"type": "text"}])], "wrong_type", r"content\[0\]\.text' should be a string"),
    ],
)
def test_bad_messages(messages, reason, message):
    refused("chat", {"messages": messages}, reason, message)


def test_two_system_messages():
    record = {"messages": [system("a"), user("b"), assistant("c")], "system": "d"}
    refused("chat", record, "bad_roles", "keep one of them")


def test_prompts():
    convert = normaliser("prompt")
    asked = {"messages": [user("a"), assistant("b"), user("c")]}
    assert convert(asked) == asked
    answered = {"messages": [*asked["messages"], assistant("d")]}
    assert convert(answered) == asked | {"answer": "d"}
    assert convert({"prompt": asked["messages"]}) == asked
    assert convert({"prompt": "a", "response": "b"}) == {"messages": [user("a")]}
    assert convert({"prompt": "a", "system": "s"}) == {"messages": [system("s"), user("a")]}
    question = normaliser("prompt", {"prompt": "Q: {q}"})
    assert question({"q": "why?", "messages": []}) == {"messages": [user("Q: why?")]}
    refused("prompt", {"prompt": ""}, "empty_text", "'prompt' is empty")
    refused("prompt", {"prompt": 3}, "wrong_type", "'prompt' should be a string, and is 3")
    refused("prompt", {"prompt": [user("a"), assistant("b")]}, "bad_roles", "should be from 'user'")


# Preferences.

PAIR = {
    "messages": [user("q")],
    "responses": ["good", "bad"],
    "rank": [0, 1],
    "kinds": ["chosen", ""],
}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {
            "prompt": "q",
            "chosen": [user("q"), assistant("good")],
            "rejected": [user("q"), assistant("bad")],
        },
        {
            "chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: bad ",
        },
        {"chosen": "Human: q\n\nAssistant:good", "rejected": "Human: q\n\nAssistant:bad"},
    ],
)
def test_pairs(record):
    assert normaliser("preference")(record) == PAIR


def test_pairs_by_template():
    fields = {"prompt": "{question}", "chosen": "{best}", "rejected": "{worst}"}
    convert = normaliser("preference", fields)
    assert convert({"question": "q", "best": "good", "worst": "bad"}) == PAIR
    record = {"question": "q", "best": [assistant("good")], "worst": [assistant("bad")]}
    assert convert(record) == PAIR


def test_dialogues_of_several_turns_share_their_prefix():
    start = "\n\nHuman: a\nb\n\nAssistant: c\n\nHuman: d"
    record = {"chosen": start + "\n\nAssistant: e", "rejected": start + "\n\nAssistant: f"}
    example = normaliser("preference")({**record, "system": "s"})
    assert example["messages"] == [system("s"), user("a\nb"), assistant("c"), user("d")]
    assert example["responses"] == ["e", "f"]


def test_a_list_of_rejected_with_kinds():
    rejected = [{"kind": "short", "text": "b"}, {"kind": "wrong", "text": "c"}]
    record = {"prompt": "q", "chosen": "a", "rejected": rejected}
    assert normaliser("preference")(record) == {
        "messages": [user("q")],
        "responses": ["a", "b", "c"],
        "rank": [0, 1, 1],
        "kinds": ["chosen", "short", "wrong"],
    }


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [({}, [0, 1, 2]), ({"rank": [5, -1, 5]}, [1, 0, 1]), ({"rank": [10**30, 2, 1]}, [2, 1, 0])],
)
def test_ranked_lists_count_from_0(ranks, expected):
    example = normaliser("preference")({"prompt": "q", "responses": ["a", "b", "c"], **ranks})
    assert example["rank"] == expected
    assert (example["responses"], example["kinds"]) == (["a", "b", "c"], ["", "", ""])


def test_the_same_text_twice_in_one_place_is_a_tie():
    record = {"prompt": "q", "responses": ["a", "b", "b"], "rank": [0, 1, 1]}
    assert normaliser("preference")(record)["rank"] == [0, 1, 1]


@pytest.mark.parametrize(("given", "expected"), [(0.75, 0.75), ("0.6", 0.6), (1, 1.0)])
def test_how_sure_a_ranking_is(given, expected):
    record = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert normaliser("preference")({**record, "confidence": given})["confidence"] == expected
    votes = normaliser("preference", {"confidence": "{agreement}"})
    assert votes({**record, "agreement": given})["confidence"] == expected
    assert "confidence" not in normaliser("preference")(record)


HH = "\n\nHuman: q\n\nAssistant: "


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({"prompt": "q", "chosen": "a"}, "missing_field", "no field 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": []}, "missing_field", "an empty list"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "wrong_type", "'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": ["b"]}, "wrong_type", r"rejected\[0\]"),
        ({"chosen": "a", "rejected": "b"}, "missing_field", "no field 'prompt'"),
        ({"prompt": "q", "chosen": "a", "rejected": " a"}, "identical_responses", "same text"),
        ({"chosen": HH + "a", "rejected": HH + "a"}, "identical_responses", "same text"),
        ({"chosen": HH + "a", "rejected": "b"}, "different_prefix", "dialogues differ"),
        ({"chosen": HH + "a", "rejected": HH + "b\n\nHuman: c"}, "bad_roles", "rejected"),
        ({"chosen": HH + "a", "rejected": HH}, "empty_text", "rejected.*is empty"),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("p"), assistant("b")]},
            "different_prefix",
            "dialogues differ",
        ),
        (
            {"prompt": "p", "chosen": HH + "a", "rejected": HH + "b"},
            "different_prefix",
            "'prompt' is not what the dialogues say",
        ),
        ({"prompt": "q", "responses": ["a"]}, "wrong_type", "two responses or more"),
        ({"prompt": "q", "responses": "ab"}, "wrong_type", "two responses or more"),
        ({"prompt": "q", "responses": ["a", 3]}, "wrong_type", r"responses\[1\]"),
        ({"prompt": "q", "responses": ["a", "a"]}, "identical_responses", "same text"),
        ({"prompt": "q", "responses": ["a", "b"], "rank": [1, 1]}, "bad_rank", "all .* tied"),
        ({"prompt": "q", "responses": ["a", "b"], "rank": [1]}, "bad_rank", "1 numbers for 2"),
        ({"prompt": "q", "responses": ["a", "b"], "rank": [0, True]}, "wrong_type", "'rank'"),
        ({"prompt": "q", "responses": ["a", "b"], "rank": [0, 1.5]}, "wrong_type", "'rank'"),
        ({"prompt": "q", "responses": ["a", "b"], "rank": "01"}, "wrong_type", "'rank'"),
        *(
            ({"prompt": "q", "responses": ["a", "b"], "confidence": c}, "wrong_type", "from 0.5")
            for c in (0.4, 80, True, "sure", float("nan"))
        ),
    ],
)
def test_bad_preferences(record, reason, message):
    refused("preference", record, reason, message)


@pytest.mark.parametrize(
    ("record", "fields", "answer"),
    [
        ({"prompt": "1+1", "answer": "2"}, (), "2"),
        ({"prompt": "1+1", "answer": 2}, (), "2"),
        ({"prompt": "1+1", "solution": "it is 2"}, {"answer": "{solution}"}, "it is 2"),
        ({"messages": [user("1+1"), assistant("2")]}, (), "2"),
        ({"prompt": "1+1"}, (), None),
        ({"prompt": "1+1", "answer": ["2", "two"]}, (), None),
    ],
)
def test_a_prompt_may_have_a_reference(record, fields, answer):
    example = normaliser("prompt", fields)(record)
    assert example["messages"] == [user("1+1")] and example.get("answer") == answer
