"""Personal data with a valid form and check digits is replaced; other text is unchanged."""

import json
import time
from collections import Counter

import pytest

from data.clean.redact import KINDS, redact, redact_text
from data.config import DataConfig
from data.errors import DataError
from data.pipeline import open_data
from data.prepare.run import prepare_corpus
from data.text.tokenizer import train


def redacted(text, kinds=tuple(KINDS)):
    counts = Counter()
    return redact_text(text, kinds, counts), dict(counts)


@pytest.mark.parametrize(
    ("text", "wanted", "kind"),
    [
        ("write to jo.do+x@mail.example.org.", "write to [EMAIL].", "email"),
        ("call +49 30 901820 or not", "call [PHONE] or not", "phone"),
        ("call (555) 010-9999", "call [PHONE]", "phone"),
        ("call 555-010-9999.", "call [PHONE].", "phone"),
        ("card 4111 1111 1111 1111, please", "card [CARD], please", "card"),
        ("card 378282246310005", "card [CARD]", "card"),
        ("to DE89 3704 0044 0532 0130 00 now", "to [ACCOUNT] now", "account"),
        ("to GB82WEST12345698765432", "to [ACCOUNT]", "account"),
    ],
)
def test_what_is_replaced(text, wanted, kind):
    assert redacted(text) == (wanted, {kind: 1})
    assert redacted(text, [k for k in KINDS if k != kind])[0] != wanted


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979 and 2026-11-25, 25.11.2026 and 1,000,000,000",
        "card 4111 1111 1111 1112",  # its check digit is wrong
        "to DE89 3704 0044 0532 0130 01",
        "an @ sign, a@b, user@host",
        "12345678901 units, version 1.2.3.4",
        "ISBN 9783161484100",
    ],
)
def test_what_stays(text):
    broken = "card" in text or "DE89" in text  # a part of it may look like a phone number
    kinds = [kind for kind in KINDS if kind != "phone" or not broken]
    assert redacted(text, kinds) == (text, {})


def test_every_text_of_an_example():
    counts = Counter()
    example = {
        "messages": [{"role": "user", "content": "I am a@b.org"}],
        "responses": ["hi a@b.org", "hi"],
        "rank": [0, 1],
        "where": "x@y.org:1",
        "passages": [{"id": "1", "title": "Of a@b.org", "text": "x"}],
    }
    output = redact(example, ("email",), counts)
    assert output["messages"][0]["content"] == "I am [EMAIL]"
    assert (output["responses"], output["where"]) == (["hi [EMAIL]", "hi"], "x@y.org:1")
    assert output["passages"] == [{"id": "1", "title": "Of [EMAIL]", "text": "x"}]
    assert counts == {"email": 3}
    assert example["responses"][0] == "hi a@b.org"


def test_no_text_takes_long():
    begin = time.process_time()
    for text in ("a" * 20_000, "1 " * 20_000, "a." * 20_000 + "@", "AB12" * 5_000, "+1-" * 9_000):
        redacted(text)
    assert time.process_time() - begin < 5


def test_a_recipe_redacts_and_counts_prepared_or_not(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = [f"document {i} of a{i}@b.org" for i in range(20)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    config = DataConfig(source=str(path), redact=("email",), length=32)
    tokenizer = train("byte", [], 0)
    data = open_data(config, "text", tokenizer)
    assert data.redacted == {"email": 20}
    assert "of [EMAIL]" in tokenizer.decode(data.train["tokens"].flatten())
    tokenizer.save(tmp_path / "tokenizer")
    out = str(tmp_path / "out")
    manifest = prepare_corpus(config, "text", out, tokenizer=str(tmp_path))
    assert manifest["redacted"] == {"email": 20}
    there = DataConfig(source=out, redact=("email",), length=32)
    again = open_data(there, "text", tokenizer).train
    assert (again.take(range(3))["tokens"] == data.train["tokens"][:3]).all()
    with pytest.raises(DataError, match=r"no kind of data\.redact; did you mean 'email'"):
        DataConfig(source=str(path), redact=("emial",))
