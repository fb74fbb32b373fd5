"""Each transform changes a record as it says, counts that, and refuses other values."""

from collections import Counter
from importlib.util import find_spec

import pytest

from data.config import DataConfig
from data.errors import DataError
from data.transforms.registry import TRANSFORMS, Change

knowledge = pytest.mark.skipif(
    not all(map(find_spec, ("markdownify", "mailparser_reply"))),
    reason="the extra `knowledge` is not installed",
)


def changed(record, transforms, is_export=False):
    """(fields of the changed record, counts); None for one that is left out."""
    counts = Counter()
    conversation = Change(transforms, is_export)(record, counts)
    return (conversation and conversation.fields), dict(counts)


def turns(*pairs, **others):
    return {"messages": [{"role": role, "content": text} for role, text in pairs], **others}


def said(record, transforms):
    fields, counts = changed(record, transforms)
    return [(message["role"], message["content"]) for message in fields["messages"]], counts


def test_without_transforms_a_record_is_the_same_object():
    record = turns(("user", "a"))
    assert Change({})(record, Counter()).fields is record


def test_turns_of_one_speaker_are_merged():
    record = turns(("user", "a"), ("user", " "), ("user", "b"), ("gpt", "c"), ("assistant", "d"))
    wanted = [("user", "a\n\nb"), ("assistant", "c\n\nd")]
    counts = {"turns merged": 2, "messages without text dropped": 1}
    assert said(record, {"merge_turns": True}) == (wanted, counts)
    record["messages"][4]["tool_calls"] = [{"function": {"name": "f"}}]
    assert len(said(record, {"merge_turns": True})[0]) == 3  # what else it says would be lost


def test_a_conversation_ends_at_the_assistants_last_turn():
    record = turns(
        ("system", "s"), ("assistant", "hi"), ("user", "a"), ("assistant", "b"), ("user", "c")
    )
    wanted = [("system", "s"), ("user", "a"), ("assistant", "b")]
    assert said(record, {"trim": True}) == (
        wanted,
        {"turns dropped before the user's first": 1, "turns dropped after the assistant's last": 1},
    )
    none = changed(turns(("assistant", "hi"), ("user", "a")), {"trim": True})
    assert none == (None, {"records left out, no answer of the assistant": 1})


def test_records_are_kept_by_their_fields():
    keep = {"keep": {"status": "solved,closed", "rating.score": 4, "tags": ("a", "b")}}
    record = {"text": "t", "status": "closed", "rating": {"score": 4}, "tags": ["c", "b"]}
    assert changed(record, keep)[0] == record
    assert changed(record | {"status": "open"}, keep)[1] == {"records left out, status is open": 1}
    assert changed(record | {"tags": []}, keep)[1] == {"records left out, tags is none of a, b": 1}
    with pytest.raises(DataError, match=r"keep\.status: no field 'status'; did you mean state\?"):
        changed({"text": "t", "state": "closed"}, keep)


def test_places_of_turns_and_roles_of_authors():
    record = {
        "data": {"log": [
            {"from": {"id": 7}, "body": "q", "visible": True, "sent": "10:00"},
            {"from": {"id": 8}, "body": "note", "visible": False},
            {"from": {"id": 8}, "body": "a", "visible": True},
            {"from": {"id": 9}, "body": "noise", "visible": True},
        ]}
    }  # fmt: skip
    places = {"messages": "data.log", "author": "from.id", "content": "body"}
    transforms = {
        "turns": places | {"private": "not visible"},
        "roles": {"assistant": "8", "drop": 9},
        "drop_notes": True,
    }
    fields, counts = changed(record, transforms)
    assert fields == {
        "messages": [
            {"role": "user", "content": "q", "sent": "10:00"},
            {"role": "assistant", "content": "a"},
        ]
    }
    assert counts["private notes dropped"] == 1
    assert counts["messages dropped, of roles.drop"] == 1
    both = transforms | {"roles": {"assistant": "8", "user": "1"}}
    with pytest.raises(DataError, match=r"messages\[0\] is by someone without a role \(id '7'\)"):
        changed(record, both)
    both["roles"] = {"assistant": "8", "user": "1,others"}
    assert len(changed(record, both)[0]["messages"]) == 3
    with pytest.raises(DataError, match=r"turns\.content: no field 'text'"):
        changed(record, {"turns": places | {"content": "text"}})


def test_exports_have_transforms_unless_they_are_switched_off():
    def message(kind, text, private=False):
        return {"author": {"id": kind, "kind": kind}, "content": text, "private": private}

    sent = [("end-user", "a"), ("agent", "n", True), ("agent", "b"), ("bot", "c"), ("lead", "d")]
    record = {"messages": [message(*arguments) for arguments in sent]}
    assert [m["content"] for m in changed(record, {}, True)[0]["messages"]] == ["a", "b"]
    off = {"drop_notes": False, "merge_turns": False, "trim": False}
    fields, _ = changed(record, off, True)
    assert [m["content"] for m in fields["messages"]] == ["a", "n", "b", "d"]


def test_a_subject_comes_before_the_first_message():
    record = turns(("user", "It is broken."), ("assistant", "b"), subject="Re: AW: My order")
    wanted, counts = said(record, {"subject": True})
    assert wanted[0] == ("user", "My order\n\nIt is broken.")
    assert counts == {"subjects put before the first message": 1}
    assert said(record | {"subject": "it IS"}, {"subject": True})[0][0] == ("user", "It is broken.")


def test_front_matter_becomes_the_heading():
    page = {"text": "---\ntitle: Pots\ntags: [a]\n---\n\nOf clay.\n"}
    assert changed(page, {"front_matter": True})[0] == {"text": "# Pots\n\nOf clay.\n"}
    plain = {"text": "Of clay.\n\n---\n\nMore.\n"}
    assert changed(plain, {"front_matter": True}) == (plain, {})
    with pytest.raises(DataError, match="its front matter is no YAML"):
        changed({"text": "---\na: [\n---\n"}, {"front_matter": True})


@knowledge
def test_html_becomes_markdown():
    record = {"title": "A", "body": "<h2>B</h2><p>c &amp; <b>d</b></p><style>x</style>"}
    assert changed(record, {"html": "body"})[0] == {"title": "A", "body": "## B\n\nc & **d**"}
    chat = turns(("user", "<p>1 &lt; 2</p>"), ("assistant", "2 < 3 & 4 > 1"))
    assert said(chat, {"html": "messages"})[0] == [
        ("user", "1 < 2"),
        ("assistant", "2 < 3 & 4 > 1"),
    ]


@knowledge
def test_html_that_is_nested_too_deeply_is_refused():
    with pytest.raises(DataError, match="nested too deeply"):
        changed({"body": "<b>" * 5000 + "x"}, {"html": "body"})


QUOTE = "On Mon, 6 May 2024 at 10:12, Ana <a@b.org> wrote:\n> Hello Ben,\n> press Change"


@knowledge
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"Thanks, it is:\n\n  ok\n\n{QUOTE}", "Thanks, it is:\n\n  ok"),
        (f"{QUOTE}\n\nThat worked.", "That worked."),
        ("> where?\nHere.\n> when?\nNow.", "Here.\nNow."),
        ("Ja.\n\nAm 06.05.2024 um 10:12 schrieb Ana <a@b.org>:\n> Nein?", "Ja."),
        ("On Monday I wrote:\nnothing", "On Monday I wrote:\nnothing"),
    ],
)  # fmt: skip
def test_quoted_replies(text, wanted):
    assert said(turns(("user", text)), {"drop_quotes": True})[0] == [("user", wanted)]


@knowledge
@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("Hi,\n\nthanks, that worked. And then?", "Best regards,\nBen\nTel. 1"),
        ("You can:\n\n- press Change\n- or wait", "Kind regards\nAna\n-- \nFernhill"),
        ("Bitte.", "Mit freundlichen Grüßen\nLena Vogt"),
        ("Send it.", "Sent from my iPhone"),
        ("Thanks!", ""),
        ("The list:\n- one\n- two", ""),
        ("Regards are not\nwhat I want.", ""),
    ],
)
def test_signatures(text, signature):
    mail = turns(("user", f"{text}\n\n{signature}" if signature else text))
    counts = {"signatures dropped": 1} if signature else {}
    assert said(mail, {"drop_signatures": True}) == ([("user", text)], counts)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"merge": True}, r"transforms\.merge; did you mean merge_turns\?; known: \w+, "),
        ({"merge_turns": "yes"}, r"merge_turns='yes'; it is True or False"),
        ({"keep": "solved"}, r"set --config\.data\.transforms\.keep\.NAME=VALUE"),
        ({"roles": {"agent": "a"}}, r"'agent' is no role of data\.transforms\.roles"),
        ({"turns": {"text": "a"}}, r"'text' is no place of data\.transforms\.turns"),
    ],
)
def test_other_values_are_refused(transforms, message):
    with pytest.raises(DataError, match=message):
        DataConfig(source="a.jsonl", transforms=transforms)


def test_a_row_of_ones_own(monkeypatch):
    monkeypatch.setattr(TRANSFORMS, "_rows", dict(TRANSFORMS))
    from data.transforms.base import transform

    @transform("shout")
    def shout(value):
        def apply(conversation, counts):
            for turn in conversation.turns:
                turn.content = turn.content.upper()
            counts["turns shouted"] += len(conversation.turns)
            return ""

        return apply

    record = turns(("user", "a"), ("user", "b"))
    wanted = ([("user", "A\n\nB")], {"turns shouted": 2, "turns merged": 1})
    assert said(record, {"merge_turns": True, "shout": True}) == wanted
