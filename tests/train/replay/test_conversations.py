"""Conversations to replay, from the records of people."""

import json

import pytest
from sample_runs.random_runs import TOKENIZER

import registry
from data.errors import DataError
from data.passages.config import PassagesConfig
from train.chat.passages import ChatPassages
from train.replay.conversations import grounded, read

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
