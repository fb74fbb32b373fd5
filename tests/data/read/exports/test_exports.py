"""Exports, mailboxes and pages become the chats and documents that a person wrote by hand.

The folders beside this file are exports; expected/ holds what was written by hand from them.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from data.config import DataConfig
from data.errors import DataError
from data.pipeline import open_data
from data.prepare.run import prepare_corpus
from data.read.exports import files
from data.read.sources import read
from data.text.tokenizer import train

HERE = Path(__file__).parent
MAIL = {"drop_quotes": True, "drop_signatures": True}

knowledge = pytest.mark.skipif(
    not all(map(find_spec, ("trafilatura", "markdownify", "mailparser_reply"))),
    reason="the extra `knowledge` is not installed",
)


def chats(source, **options):
    """The messages of each example, and the counts of changes."""
    result = read(source, "chat", **options)
    return [{"messages": example["messages"]} for example in result.examples], result.changes


def expected(name):
    return [json.loads(line) for line in (HERE / f"expected/{name}.jsonl").read_text().splitlines()]


@knowledge
def test_tickets():
    transforms = MAIL | {"keep": {"status": "solved"}}
    examples, changes = chats(f"zendesk:{HERE}/zendesk", transforms=transforms)
    assert examples == expected("zendesk")
    assert changes == {
        "records kept, status is solved": 4,
        "records left out, status is open": 1,
        "records left out, no answer of the assistant": 1,
        "private notes dropped": 2,
        "quoted replies dropped": 1,
        "signatures dropped": 2,
        "turns merged": 2,
        "turns dropped before the user's first": 1,
        "turns dropped after the assistant's last": 1,
    }


def test_threads_of_a_chat():
    examples, changes = chats(f"slack:{HERE}/slack")
    assert examples == expected("slack")
    assert changes == {
        "events dropped, such as somebody joining": 1,
        "messages outside of threads dropped": 1,
        "messages dropped, of bot": 1,
        "messages without text dropped": 1,
        "turns merged": 1,
        "turns dropped after the assistant's last": 1,
    }
    examples, changes = chats(
        f"slack:{HERE}/slack", transforms={"roles": {"assistant": "Karl Ek", "drop": "UC,UX"}}
    )
    assert [len(example["messages"]) for example in examples] == [4]  # in the other, Karl asks
    assert changes["sources without 'UX' of roles.drop"] == 1


@knowledge
@pytest.mark.parametrize("name", ["pots.html", "short.htm", "broken.html"])
def test_pages(name):
    path = HERE / "pages" / name
    (example,) = read(str(path), "text").examples
    assert example["text"] + "\n" == (HERE / f"expected/pages/{path.stem}.md").read_text()
    titled = read(str(path), "text", fields={"text": "{title}"}).examples
    assert f"# {titled[0]['text']}\n" == (HERE / f"expected/pages/{path.stem}.md").open().readline()


@knowledge
def test_conversations_of_intercom(tmp_path):
    def part(kind, body, part_type="comment"):
        return {"part_type": part_type, "body": body, "author": {"type": kind, "id": kind}}

    conversation = {
        "state": "closed",
        "source": part("lead", "<p>Do you ship to <b>Oslo</b>?</p>"),
        "conversation_parts": {
            "conversation_parts": [
                part("bot", "<p>Soon.</p>"),
                part("admin", None, "assignment"),
                part("admin", "<p>rich customer</p>", "note"),
                part("admin", "<p>We do.</p><script>track()</script>"),
            ]
        },
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"conversations": [conversation]}))
    examples, changes = chats(f"intercom:{path}")
    assert [m["content"] for m in examples[0]["messages"]] == ["Do you ship to **Oslo**?", "We do."]
    assert changes == {
        "events dropped, such as an assignment": 1,
        "messages dropped, of bot": 1,
        "private notes dropped": 1,
    }


def mail(number, who, text, headers="", charset="utf-8"):
    head = (
        f"From x Mon May 06 0{number}:00:00 2024\nFrom: {who}\nSubject: Re: A\n"
        f"Date: Mon, 06 May 2024 0{number}:00:00 +0000\nMessage-ID: <{number}@x>\n{headers}"
        f"Content-Type: text/plain; charset={charset}\n\n"
    )
    return head.encode() + text.encode("latin-1" if charset == "iso-8859-1" else "utf-8") + b"\n\n"


def test_threads_of_mails(tmp_path):
    path = tmp_path / "a.mbox"
    path.write_bytes(
        mail(3, "b@shop.example", "Second answer.", "References: <1@x> <2@x>\n")
        + mail(1, "Eva <eva@x.example>", "Where is the café?", "", "iso-8859-1")
        + mail(2, "a@shop.example", "In the barn.", "In-Reply-To: <1@x>\n")
        + mail(4, "a@shop.example", "Out of office.", "In-Reply-To: <1@x>\nAuto-Submitted: auto\n")
        + mail(5, "a@shop.example", "News!", "")
    )
    examples, changes = chats(str(path))
    wanted = ["Where is the café?", "In the barn.\n\nSecond answer."]
    assert [[m["content"] for m in e["messages"]] for e in examples] == [wanted]
    assert changes["records left out, no answer of the assistant"] == 1
    by_domain = {"roles": {"assistant": "@shop.example"}, "subject": True}
    examples, _ = chats(str(path), transforms=by_domain)
    assert examples[0]["messages"][0]["content"] == "A\n\nWhere is the café?"


def test_a_run_and_a_prepared_corpus_read_an_export_alike(tmp_path):
    config = DataConfig(
        source=f"slack:{HERE}/slack", length=256, redact=("people",), heldout_by="channel",
        heldout_fraction=0.5,
    )  # fmt: skip
    tokenizer = train("byte", [], 0)
    data = open_data(config, "chat", tokenizer)
    tokenizer.save(tmp_path / "tokenizer")
    manifest = prepare_corpus(config, "chat", str(tmp_path / "out"), tokenizer=str(tmp_path))
    assert manifest["redacted"] == data.redacted == {"people": 1}  # @Noor
    assert data.changes == {config.source: manifest["changes"]}
    assert manifest["changes"]["messages dropped, of bot"] == 1
    there = DataConfig(source=str(tmp_path / "out"), length=256)
    rows = open_data(there, "chat", tokenizer)
    assert (rows.train.take(range(1))["tokens"] == data.train["tokens"]).all()
    assert rows.heldout_examples == data.heldout_examples
    assert "group" not in rows.heldout_examples[0]


def test_ids_may_be_numbers_in_one_place_and_texts_in_another(tmp_path):
    comments = [{"author_id": 7, "body": "q?"}, {"author_id": 9, "body": "a"}]
    ticket = {"requester_id": "7", "assignee_id": "9", "comments": comments}
    (tmp_path / "a.json").write_text(json.dumps({"tickets": [ticket]}))
    (example,) = read(f"zendesk:{tmp_path}/a.json", "chat").examples
    assert [m["role"] for m in example["messages"]] == ["user", "assistant"]


def test_an_export_is_identified_by_its_files_alone(tmp_path):
    (tmp_path / "a.json").write_text('{"tickets": []}')
    name = f"zendesk:{tmp_path}/a.json"
    before = files.identity(name, "")
    (tmp_path / "metrics.jsonl").write_text("{}")  # of a run in the same folder
    assert files.identity(name, "") == before
    (tmp_path / "users.json").write_text("[]")
    assert files.identity(name, "") != before


# What cannot be read.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"items": []}, r"records=tickets: there is no key 'tickets'; the keys there: 'items'"),
        ({"tickets": [{"id": 1}]}, r"a.json: tickets\[0\]: no 'comments' \(the record has 'id'\)"),
        (
            {"tickets": [{"comments": [{"author_id": 9, "body": "a"}]}]},
            r"tickets\[0\]: messages\[0\] is by someone without a role \(id '9'\); type --config\.",
        ),
        (
            {"tickets": [{"comments": [{"author_id": 9, "body": 3}]}]},
            r"tickets\[0\]: 'body' should be a text, and is a int",
        ),
    ],
)
def test_tickets_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read(f"zendesk:{tmp_path}/a.json", "chat")


def test_an_unknown_author_is_counted(tmp_path):
    tickets = [
        {"requester_id": 1, "comments": [{"author_id": author, "body": "a"} for author in authors]}
        for authors in ((1, 9), (1,), (1, 2))
    ]
    content = {"tickets": tickets, "users": [{"id": 2, "role": "agent"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    result = read(f"zendesk:{tmp_path}/a.json", "chat", on_bad="skip")
    assert (len(result.examples), result.skipped) == (1, {"no_role": 1})
    result = read(f"zendesk:{tmp_path}/a.json", "chat", transforms={"roles": {"assistant": "9"}})
    assert len(result.examples) == 2


def test_what_is_no_export_is_refused(tmp_path):
    def refuses(source, message, schema="chat"):
        with pytest.raises(DataError, match=message):
            read(source, schema)

    refuses("zendesk:", "names no files: write zendesk:PATH")
    refuses(f"zendesk:{tmp_path}", "holds no .json or .jsonl .*; it is empty")
    refuses(f"slack:{tmp_path}", "has no users.json; name the folder of an unpacked Slack export")
    refuses(f"slack:{tmp_path}/a.zip", "is no folder; unpack the export")
    (tmp_path / "a.mbox").write_text("Hello\n")
    refuses(f"{tmp_path}/a.mbox", "is no mbox: its first line should begin with 'From '")
    (tmp_path / "b.mbox").write_bytes(mail(1, "a@x", "caf\xe9", "", "iso-8859-1").replace(
        b"iso-8859-1", b"utf-8"))  # fmt: skip
    refuses(f"{tmp_path}/b.mbox", r"b.mbox\[0\]: a message that says it is 'utf-8', and is neither")
    refuses(str(tmp_path), r"is a directory. Name the files in it: .*/\*\.mbox")


@knowledge
def test_pages_without_text_or_of_another_encoding_are_refused(tmp_path):
    page = tmp_path / "a.html"
    page.write_text("<html><title>Empty</title><body><script>run()</script></body></html>")
    with pytest.raises(DataError, match=r"a.html:1: the page has no text beside menus"):
        read(str(page), "text")
    page.write_bytes(b"<html><meta charset=shift_jis><body><p>caf\xe9</body></html>")
    with pytest.raises(DataError, match="says that it is 'shift_jis', and is not"):
        read(str(page), "text")
    page.write_bytes(b"<html><body><p>caf\xe9</body></html>")
    with pytest.raises(DataError, match=r"not UTF-8: byte 0xe9"):
        read(str(page), "text")
    with pytest.raises(DataError, match=r"schema 'chat' is read from"):
        read(str(page), "chat")


def test_sources_of_a_mixture_have_transforms_of_their_own(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps({"data": [{"log": [{"role": "user", "content": f"q{i}"},
                                      {"role": "gpt", "content": "a"}]} for i in range(4)]})
    )  # fmt: skip
    chats = [{"prompt": f"p{i}", "response": "r"} for i in range(4)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    mixture = {
        "cases": {
            "source": str(tmp_path / "a.json"),
            "records": "data",
            "transforms": {"turns": {"messages": "log"}},
        },
        "chats": {"source": str(tmp_path / "b.jsonl")},
        "threads": {"source": f"slack:{HERE}/slack"},
    }
    data = open_data(
        DataConfig(source="", mixture=mixture, length=256), "chat", train("byte", [], 0)
    )
    assert len(data.heldout_examples) == 3
    assert [source.rpartition("/")[2] for source in data.changes] == ["slack"]
