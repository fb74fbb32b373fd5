"""Reading prepared rows: compatibility with a run, damage, object stores, the row format."""

import json
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_corpus import TOKENIZER, bytes_of, config_of, prepared_to

from data.batch import segment_row
from data.config import DataConfig
from data.errors import DataError
from data.loader import make_loader
from data.pipeline import open_data
from data.prepare import prepared_rows, row_format
from data.text.tokenizer import train


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_what_does_not_fit_the_run(folder):
    def opened(schema="text", tokenizer=TOKENIZER, **settings):
        config = DataConfig(**{"source": str(folder), "length": 96} | settings)
        return open_data(config, schema, tokenizer)

    assert len(opened().train) > 10
    with pytest.raises(DataError, match="holds rows of text, and this stage reads chat"):
        opened("chat")
    with pytest.raises(DataError, match=r"rows of 96 tokens.*data\.length=96"):
        opened(length=64)
    with pytest.raises(DataError, match=r"another tokenizer.*tokenizer\.path="):
        opened(tokenizer=train("char", ["ab"], 0))
    with pytest.raises(DataError, match=r"cannot be chosen again by 'exact'"):
        opened(dedup="exact")
    with pytest.raises(DataError, match=r"data\.mixture\.a\.limit: .* are prepared"):
        opened(source="", mixture={"a": {"source": str(folder), "limit": 3}})


def test_a_missing_or_cut_shard_is_an_error_before_training(copy):
    shard = sorted(copy.glob("train-*"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{shard} has {len(whole) - 1} bytes"):
        prepared_rows.PreparedRows(copy, "train")
    shard.write_bytes(whole[::-1])
    with pytest.raises(DataError, match=f"{shard} is damaged, or another"):
        prepared_rows.PreparedRows(copy, "train").take([0])
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard} is missing"):
        prepared_rows.PreparedRows(copy, "train")
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in ("../other", "/etc/passwd", ""):
        manifest["splits"]["train"][0]["file"] = name
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"manifest\.json names .*, which is no file of its"):
            prepared_rows.PreparedRows(copy, "train")
    (copy / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99"):
        prepared_rows.PreparedRows(copy, "train")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is not readable JSON"):
        prepared_rows.PreparedRows(copy, "train")


@pytest.mark.parametrize("schema", ["text", "chat"])
def test_few_rows_are_held_and_many_are_read_one_by_one(tmp_path, corpus, schema, monkeypatch):
    config = config_of(corpus, "chats.jsonl" if schema == "chat" else "[ab].jsonl")
    prepared_to(tmp_path / "out", corpus, config, schema)
    held = prepared_rows.PreparedRows(tmp_path / "out", "train")
    monkeypatch.setattr(prepared_rows, "FEW_BYTES", 0)
    read = prepared_rows.PreparedRows(tmp_path / "out", "train")
    index = np.random.default_rng(0).integers(0, len(held), 50)
    value = read.take(index)
    for name, values in held.take(index).items():
        np.testing.assert_array_equal(value[name], values)
        assert value[name].dtype == values.dtype
    assert held._rows and read._rows is None
    held.take([0])["tokens"][0] = 0  # a copy, owned by the caller
    np.testing.assert_array_equal(held.take(index)["tokens"], value["tokens"])


@pytest.mark.parametrize("few", [True, False])
def test_shards_are_written_to_an_object_store_and_read_from_it(
    corpus,
    folder,
    bucket,
    few,
    monkeypatch,
):
    monkeypatch.setattr(prepared_rows, "FEW_BYTES", prepared_rows.FEW_BYTES if few else 0)
    config = config_of(corpus, "[ab].jsonl")
    prepared_to("gs://bucket/out", corpus, config)
    names = [path.rsplit("/", 1)[1] for path in bucket.find("gs://bucket/out")]
    assert sorted({*names} - {"tokenizer.json", "tokenizer.model"}) == sorted(bytes_of(folder))
    for name, content in bytes_of(folder).items():
        assert bucket.cat(f"gs://bucket/out/{name}") == content
    there, here = (
        open_data(DataConfig(source=str(place), length=96), "text", TOKENIZER)
        for place in ("gs://bucket/out", folder)
    )
    for name, values in make_loader(config, here, 8, 0).batch(3).items():
        np.testing.assert_array_equal(make_loader(config, there, 8, 0).batch(3)[name], values)
    assert list(there.heldout_examples) == list(here.heldout_examples)


@pytest.mark.parametrize("few", [True, False])
def test_a_damaged_record_is_an_error_or_what_it_was(copy, folder, few, monkeypatch):
    """Any changed byte of a shard: the library's checksums detect it, or it carries no data."""
    monkeypatch.setattr(prepared_rows, "FEW_BYTES", prepared_rows.FEW_BYTES if few else 0)
    wanted = prepared_rows.PreparedRows(folder, "train")
    index = np.arange(len(wanted))
    rows = wanted.take(index)
    shard = sorted(copy.glob("train-*"))[0]
    whole, detected = shard.read_bytes(), 0
    rng = random.Random(0)
    used = [at for at, byte in enumerate(whole) if byte]
    for at in rng.sample(used, 40):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            record_tokens = prepared_rows.PreparedRows(copy, "train").take(index)
        except DataError as error:
            assert str(shard) in str(error)
            detected += 1
        else:
            for name in rows:
                np.testing.assert_array_equal(record_tokens[name], rows[name])
    assert detected > 30
    shard.write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_record_is_the_row(data):
    length = data.draw(st.integers(2, 40))
    sizes = data.draw(st.lists(st.integers(1, 12), max_size=4).filter(lambda s: sum(s) <= length))
    vocab_size = data.draw(st.sampled_from([300, 65_536, 65_537]))
    with_mask = data.draw(st.booleans())
    rng = np.random.default_rng(0)
    segments = [
        (rng.integers(vocab_size, size=n), rng.integers(2, size=n) if with_mask else np.ones(n))
        for n in sizes
    ]
    row, dtype = segment_row(segments, length), row_format.token_dtype(vocab_size)
    record = row_format.encode(row, dtype, with_mask)
    decoded = row_format.decode([record, record], length, dtype, with_mask)
    for name, values in row.items():
        np.testing.assert_array_equal(decoded[name], np.stack([values, values]))
        assert decoded[name].dtype == values.dtype
    for broken in (record[:-1], record + b"\0", b"", b"\xff\xff" + record[2:]):
        with pytest.raises(ValueError, match="row"):
            row_format.decode([broken], length, dtype, with_mask)


def test_the_examples_of_prepared_rows_are_counted_where_they_begin(copy):
    documents = json.loads((copy / "manifest.json").read_text())["documents"]["train"]
    rows = prepared_rows.PreparedRows(copy, "train")
    counts = rows.example_counts()
    assert len(counts) == len(rows) and counts.sum() == documents
    segments = np.max(rows.take(np.arange(len(rows)))["segment_ids"], axis=1)
    assert np.all((segments - counts == 0) | (segments - counts == 1))  # a document may continue
    path = next(copy.glob("examples-train-*"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=f"{path} has numbers of .* copy it again"):
        rows.example_counts()
    path.unlink()  # as in a folder of an earlier version
    assert rows.example_counts() is None
