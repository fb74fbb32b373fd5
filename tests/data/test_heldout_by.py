"""Held out by a field: nothing of one value is on both sides, nor a copy of a held-out example."""

import json

import pytest

from data.config import DataConfig
from data.errors import DataError
from data.prepare.run import prepare_corpus
from data.splits import read_examples
from data.text.tokenizer import train


@pytest.fixture
def path(tmp_path):
    """Forty documents of ten customers; each customer's first is the same for all."""
    records = [
        {"text": f"hello {i} of {i % 10}" if i >= 10 else "hello", "who": {"id": i % 10}}
        for i in range(40)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def customers(examples):
    return {e["text"].split()[-1] for e in examples if e["text"] != "hello"}


@pytest.mark.parametrize("dedup", ["", "exact", "near"])
def test_a_customer_is_on_one_side(path, tmp_path, dedup):
    config = DataConfig(
        source=str(path), heldout_by="who.id", heldout_fraction=0.3, dedup=dedup, length=64
    )
    examples = read_examples(config, "text")
    held, trained = customers(examples.heldout), customers(examples.train)
    assert (len(held), len(trained)) == (3, 7)
    assert not held & trained
    assert not {e["text"] for e in examples.heldout} & {e["text"] for e in examples.train}
    assert examples.skipped["copy of a held-out example"] == 7  # `hello` of the other customers
    assert all("group" not in e for e in examples.train + examples.heldout)
    train("byte", [], 0).save(tmp_path / "tokenizer")
    manifest = prepare_corpus(config, "text", str(tmp_path / "out"), tokenizer=str(tmp_path))
    documents = manifest["documents"]
    assert documents["heldout"] == len(examples.heldout)
    assert documents["train"] == len(examples.train)
    assert documents["copy of a held-out example"] == 7


def test_a_record_without_the_field_is_refused_or_counted(path):
    with path.open("a") as file:
        file.write('{"text": "b"}\n{"text": "c", "who": {"id": null}}\n')
    options = dict(source=str(path), heldout_by="who.id", length=64)
    with pytest.raises(DataError, match=r"a.jsonl:41: data.heldout_by: no field 'who.id'"):
        read_examples(DataConfig(**options), "text")
    skipped = read_examples(DataConfig(**options, on_bad="skip"), "text").bad
    assert skipped == {"missing_field": 1, "no_group": 1}


def test_one_value_and_a_source_of_its_own_are_refused(path, tmp_path):
    one = tmp_path / "b.jsonl"
    one.write_text('{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n')
    with pytest.raises(DataError, match=r"data.heldout_by=id needs two different values"):
        read_examples(DataConfig(source=str(one), heldout_by="id"), "text")
    with pytest.raises(DataError, match=r"data.heldout_by divides data.source"):
        DataConfig(source=str(path), heldout_by="who.id", heldout_source=str(one))
