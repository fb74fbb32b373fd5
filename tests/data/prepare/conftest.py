"""A corpus, and the folder of its prepared rows."""

import json

import pytest
from prepared_corpus import TOKENIZER, config_of, prepared_to, text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files of documents, some of them twice, and one of chats; the byte tokenizer."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [text(i % 70, 3 + i % 40) for i in range(90)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines[:50]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines[50:]))
    chats = [{"prompt": text(i, 4), "response": text(i + 99, 2 + i % 9)} for i in range(60)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
    TOKENIZER.save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepared_to(out, corpus, config_of(corpus, "[ab].jsonl"))
    return out
