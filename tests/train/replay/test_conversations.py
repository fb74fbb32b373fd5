"""Conversations to replay, from the records of people."""

import json
from pathlib import Path

import pytest
from sample_runs.random_runs import TOKENIZER

import registry
from data.errors import DataError
from data.passages.config import PassagesConfig
from ranges import ConfigError
from train.chat.passages import ChatPassages
from train.cli import transforms_of
from train.replay.conversations import grounded, read

EXAMPLES = Path(__file__).parents[3] / "examples"
CHAT = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"}, {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "so"}, {"role": "user", "content": "thanks"},
]  # fmt: skip


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_every_answer_follows_the_peoples_own_messages(tmp_path):
    source = write(tmp_path / "a.jsonl", {"messages": CHAT, "id": 7, "category": "greetings"})
    (first, second) = read(source, turns="all").turns
    assert (first.messages, first.answer) == (tuple(CHAT[:2]), "hi")
    assert (second.messages, second.answer) == (tuple(CHAT[:4]), "so")
    assert second.category == "greetings" and second.where.endswith("a.jsonl:1")
    last = read(source)
    assert last.turns == [second] and second.number == 2
    assert last.notes == ["fields that are not read: id"]


def test_fields_are_named_and_what_is_left_out_is_counted(tmp_path):
    record = {"question": "a?", "reply": "b", "meta": {"topic": "x"}, "harmful": "true",
              "documents": [{"text": "c"}, "d"]}  # fmt: skip
    fields = {"prompt": "{question}", "response": "{reply}"}
    (turn,) = read(write(tmp_path / "a.jsonl", record), fields, "meta.topic").turns
    assert (turn.answer, turn.category, turn.harmful, turn.documents) == ("b", "x", True, "c\nd")
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}
    records = [{"messages": CHAT[1:2]}, {"messages": [CHAT[1], call]}, {"messages": CHAT}]
    got = read(write(tmp_path / "b.jsonl", *records))
    assert len(got.turns) == 1 and got.notes == [
        "2 conversations without an answer of the assistant, left out",
        "1 answers without a text, as calls of tools, are not replayed",
    ]


def test_an_export_is_replayed_as_it_is_trained_on():
    source = f"zendesk:{EXAMPLES}/exports/tickets.json"
    transforms = {"keep": {"status": "solved,closed"}, "drop_signatures": True}
    got = read(source, category="tags[0]", transforms=transforms)
    first = got.turns[0]
    assert [m["role"] for m in first.messages] == ["user"] and first.category == "delivery"
    assert "neighbour at number 14" not in first.question  # a private note
    assert first.answer.endswith("once more.")  # without the signature
    assert "private notes dropped: 2" in got.notes and not any("status," in n for n in got.notes)
    assert [turn.category for turn in read(source, category="tags[0]").turns][-1] == ""
    with pytest.raises(DataError, match="holds no conversation\n  records left out, status is"):
        read(source, transforms={"keep": {"status": "new"}})


def test_conversations_may_be_in_a_document_and_have_places_of_their_own(tmp_path):
    log = [{"by": 1, "text": "a?"}, {"by": 7, "text": "b"}]
    (tmp_path / "a.json").write_text(json.dumps({"cases": [{"log": log}]}))
    places = {"messages": "log", "author": "by", "content": "text"}
    transforms = {"turns": places, "roles": {"assistant": 7}}
    (turn,) = read(str(tmp_path / "a.json"), records="cases", transforms=transforms).turns
    assert (turn.question, turn.answer) == ("a?", "b")


def test_passages_are_written_into_questions_and_measured(tmp_path):
    (turn,) = read(write(tmp_path / "a.jsonl", {"messages": CHAT[:5]})).turns
    (tmp_path / "help").mkdir()
    (tmp_path / "help/why.md").write_text("# Why\n\nWhy it is so nobody knows.\n")
    config = registry.current(PassagesConfig)(cache_dir=str(tmp_path))
    passages = ChatPassages(str(tmp_path / "help"), config, TOKENIZER)
    got = grounded(turn, passages)
    assert got.messages[:-1] == turn.messages[:-1] and got.question == "why?"
    asked = got.messages[-1]["content"]
    assert "nobody knows" in asked and asked.endswith("why?") and "nobody knows" in got.documents
    tool = turn._replace(messages=({"role": "tool", "content": "3"},))
    assert grounded(tool, passages) == tool


@pytest.mark.parametrize(
    "records, settings, message",
    [
        ([{"messages": CHAT[:2]}], {}, "none of its 1 conversations has an answer of the assist"),
        ([], {}, "holds no conversation"),
        ([{"messages": CHAT}], {"category": "topic"}, r"jsonl:1: no field 'topic' for the categ"),
        ([{"messages": CHAT, "harmful": 3}], {}, r"jsonl:1: 'harmful' is 3; it must be true"),
        ([{"messages": CHAT, "documents": [3]}], {}, r"jsonl:1: 'documents' should be a text"),
    ],
)
def test_bad_conversations_are_refused(tmp_path, records, settings, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.jsonl", *records), **settings)


def test_transforms_are_typed_as_settings():
    words = ["keep.status=solved,closed", "keep.tags=x", "drop_notes=False"]
    assert transforms_of(words) == {
        "keep": {"status": "solved,closed", "tags": "x"}, "drop_notes": False
    }  # fmt: skip
    for wrong in (["trim"], ["=True"], ["keep.status="], ["keep=a", "keep.b=c"], ["a=b", "a=c"]):
        with pytest.raises(ConfigError, match=f"--transforms={wrong[-1]}; type each once"):
            transforms_of(wrong)
