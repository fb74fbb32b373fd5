"""Preparing: the rows that a run would make itself, the same bytes whatever happens on the way."""

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import segment_row
from data.config import DataConfig
from data.errors import DataError
from data.loader import make_loader
from data.pipeline import Data, open_data
from data.prepare import prepared_rows, row_format
from data.prepare.plan import UNFINISHED, PrepareJob, make_plan, make_tokenizer
from data.prepare.run import describe, prepare_corpus
from data.prepare.shards import write_shards
from data.prepare.survey import decide, survey
from data.read import lines
from data.rows import num_rows, take_rows
from data.splits import read_examples
from data.text.builtin import BOS
from data.text.tokenizer import load, train

TOKENIZER = train("byte", [], 0)


def text(seed, count):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(900)}" for _ in range(count))


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


def config_of(corpus, name, **settings):
    return DataConfig(source=str(corpus / name), **{"length": 96} | settings)


def prepared_to(folder, corpus, config, schema="text", **settings):
    return prepare_corpus(config, schema, str(folder), tokenizer=str(corpus), **settings)


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.mark.parametrize(
    ("name", "schema", "settings"),
    [
        ("a.jsonl", "text", {}),
        ("a.jsonl", "text", {"dedup": "exact", "filters": {"min_length": 40}, "subset": "0/2"}),
        ("chats.jsonl", "chat", {}),
        ("chats.jsonl", "chat", {"pack": False, "on_long": "drop", "length": 64}),
    ],
)
def test_prepared_rows_are_those_that_a_run_makes(tmp_path, corpus, name, schema, settings):
    config = config_of(corpus, name, **settings)
    manifest = prepared_to(tmp_path / "out", corpus, config, schema)
    assert load(tmp_path / "out").fingerprint == TOKENIZER.fingerprint
    wanted = open_data(config, schema, TOKENIZER)
    there = DataConfig(source=str(tmp_path / "out"), length=config.length)
    assert there.prepared_folders() == (str(tmp_path / "out"),)
    found = open_data(there, schema, TOKENIZER)
    for split in ("train", "heldout"):
        rows = take_rows(getattr(found, split), np.arange(len(getattr(wanted, split)["tokens"])))
        assert len(rows["tokens"]) == num_rows(getattr(found, split))
        for key, values in getattr(wanted, split).items():
            np.testing.assert_array_equal(rows[key], values)
            assert rows[key].dtype == values.dtype
    assert found.heldout_examples == wanted.heldout_examples
    real = int(np.sum(wanted.train["segment_ids"] > 0))
    assert manifest["packing"]["tokens"] == real
    assert manifest["packing"]["efficiency"] == real / wanted.train["tokens"].size
    batches = [make_loader(c, d, 8, 5).batch(7) for c, d in ((config, wanted), (there, found))]
    np.testing.assert_array_equal(batches[0]["tokens"], batches[1]["tokens"])


def documents(rows):
    """The texts of packed rows: one that is split goes on with its last token repeated."""
    found, rows = [], rows.take(np.arange(len(rows)))
    for ids, segments in zip(rows["tokens"], rows["segment_ids"]):
        for number in range(1, segments.max() + 1):
            piece = ids[segments == number].tolist()
            found.append(piece) if piece[0] == BOS else found[-1].extend(piece[1:])
    return [TOKENIZER.decode(ids) for ids in found]


def test_documents_of_many_parts_are_chosen_as_in_one_list(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(lines, "SPAN_BYTES", 1500)
    config = config_of(corpus, "[ab].jsonl", dedup="near", filters={"min_length": 30})
    manifest = prepared_to(tmp_path / "out", corpus, config)
    assert len(manifest["splits"]["train"]) > 4
    wanted = read_examples(config, "text")
    counts = {"train": len(wanted.train), "heldout": len(wanted.heldout)}
    assert manifest["documents"] == counts | dict(wanted.skipped)
    rows = prepared_rows.PreparedRows(tmp_path / "out", "train")
    assert len(rows) == sum(s["rows"] for s in manifest["splits"]["train"])
    assert sorted(documents(rows)) == sorted(e["text"] for e in wanted.train)


def test_what_is_finished_is_not_done_again(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(lines, "SPAN_BYTES", 1500)
    config = config_of(corpus, "[ab].jsonl", dedup="exact")
    prepared_to(tmp_path / "whole", corpus, config, processes=2)
    whole = bytes_of(tmp_path / "whole")
    job = PrepareJob(config, "text", str(tmp_path / "out"))
    count = make_plan(job)
    make_tokenizer(job, "", 0, str(corpus), False)
    for number in range(count):
        survey(job, number)
    decide(job)
    write_shards(job, 1)
    before = (tmp_path / "out" / f"train-00001-of-{count:05}.array_record").stat()
    with pytest.raises(DataError, match=r"begun with another data\.dedup"):
        prepared_to(tmp_path / "out", corpus, config_of(corpus, "[ab].jsonl"))
    prepared_to(tmp_path / "out", corpus, config)
    assert bytes_of(tmp_path / "out") == whole
    after = (tmp_path / "out" / f"train-00001-of-{count:05}.array_record").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    again = prepared_to(tmp_path / "out", corpus, config)  # there is nothing to do
    assert again["splits"] == json.loads(whole["manifest.json"])["splits"]
    with pytest.raises(DataError, match=r"another data\.length"):
        prepared_to(
            tmp_path / "out", corpus, config_of(corpus, "[ab].jsonl", dedup="exact", length=32)
        )
    with pytest.raises(DataError, match="is not empty"):
        prepared_to(corpus, corpus, config)


@pytest.mark.parametrize("change", ["letter", "record", "more"])
def test_sources_that_change_in_between_are_refused(tmp_path, corpus, change):
    source = tmp_path / "a.jsonl"
    before = (corpus / "a.jsonl").read_text()
    changed = {
        "letter": before.replace("w1", "w2", 1),
        "record": before.replace('"}\n{"text": "', " ................."[:13], 1),
        "more": before + '{"text": "one more"}\n',
    }[change]
    config = DataConfig(source=str(source), length=96)
    job = PrepareJob(config, "text", str(tmp_path / "out"))
    source.write_text(before)
    make_plan(job)
    survey(job, 0)
    source.write_text(changed)
    with pytest.raises(DataError, match=rf"{source} has changed since .*/out was begun"):
        prepared_to(tmp_path / "out", corpus, config)
    source.write_text(before)
    prepared_to(tmp_path / "out", corpus, config)
    source.write_text(before + "\n")
    with pytest.raises(DataError, match="has changed since"):
        prepared_to(tmp_path / "out", corpus, config)
    source.unlink()  # it is not needed any more
    prepared_to(tmp_path / "out", corpus, config)


def test_fingerprints_are_of_the_content(tmp_path, corpus):
    """The same text elsewhere, prepared or not, has the same; another letter another."""
    found = {}
    for name, change in (("a", "w1 "), ("b", "w1 "), ("c", "w2 ")):
        (tmp_path / name).mkdir()
        text = (corpus / "a.jsonl").read_text().replace("w1 ", change, 1)
        (tmp_path / name / "x.jsonl").write_text(text)
        config = config_of(tmp_path / name, "x.jsonl")
        prepared_to(tmp_path / name / "out", corpus, config)
        there = DataConfig(source=str(tmp_path / name / "out"), length=96)
        both = DataConfig(source="", length=96, mixture={
            "a": {"source": config.source}, "b": {"source": there.source}})  # fmt: skip
        found[name] = [open_data(c, "text", TOKENIZER).fingerprint() for c in (config, there, both)]
    assert found["a"] == found["b"] and len({*found["a"], *found["c"]}) == 6
    answers = [{"messages": [], "answer": a, "where": "x"} for a in "12"]
    data = [Data({}, {}, [], {}, train_examples=(a,)) for a in answers]
    assert data[0].fingerprint() != data[1].fingerprint()
    moved = dataclasses.replace(data[0], train_examples=({**answers[0], "where": "y"},))
    assert moved.fingerprint() == data[0].fingerprint()


def test_a_folder_may_be_made_anew_with_other_settings(tmp_path, corpus):
    """In one process, as in a notebook."""
    out = tmp_path / "out"
    for length in (96, 32):
        prepared_to(out, corpus, config_of(corpus, "[ab].jsonl", length=length))
        rows = prepared_rows.PreparedRows(out, "train")
        assert rows.take([0])["tokens"].shape == (1, length)
        shutil.rmtree(out)


def test_a_kill_while_the_last_files_are_removed_costs_nothing(tmp_path, corpus):
    config, out = config_of(corpus, "a.jsonl"), tmp_path / "out"
    prepared_to(out, corpus, config)
    whole = bytes_of(out)
    (out / UNFINISHED).mkdir()
    (out / UNFINISHED / "facts-00000.json").write_text("{}")
    (out / "manifest.json.1.tmp").write_text("{")
    prepared_to(out, corpus, config)
    assert bytes_of(out) == whole and not (out / UNFINISHED).exists()


def test_a_bad_record_says_where_and_counts_over_all_parts(tmp_path, corpus):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a b c"}\nnope\n{"text": "d e f"}\n{"txt": 1}\n{"text": "g"}\n')
    with pytest.raises(DataError, match=rf"{path}:2: not JSON"):
        prepared_to(tmp_path / "out", corpus, DataConfig(source=str(path)))
    skip = DataConfig(source=str(path), on_bad="skip", length=16)
    manifest = prepared_to(tmp_path / "skipped", corpus, skip)
    assert manifest["skipped"] == {"bad_json": 1, "missing_field": 1}


def test_weights_and_what_cannot_be_rendered(tmp_path, corpus):
    """The rows that a run would make, weights of all kinds included, and the same counts."""
    path = tmp_path / "chats.jsonl"
    records = [
        {"prompt": f"ask {i}", "response": "yes " * (1 + i % 7), "weight": i % 3 / 2, "id": i}
        for i in range(60)
    ]
    records.insert(5, {"prompt": "p", "response": "r", "tools": [{"name": "f"}]})
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"text": text(i, 9), "weight": i % 3 / 2}) + "\n" for i in range(40))
    )
    for schema, source, more in (("chat", path, {"on_bad": "skip"}), ("text", texts, {})):
        config = DataConfig(source=str(source), length=64, **more)
        folder = tmp_path / schema
        manifest = prepared_to(folder, corpus, config, schema)
        wanted = open_data(config, schema, TOKENIZER)
        found = open_data(DataConfig(source=str(folder), length=64), schema, TOKENIZER)
        assert 0.5 in wanted.train["loss_mask"] and manifest["skipped"] == dict(wanted.skipped)
        for split in ("train", "heldout"):
            rows, other = getattr(wanted, split), getattr(found, split)
            other = take_rows(other, np.arange(num_rows(other)))
            for name, values in rows.items():
                np.testing.assert_array_equal(other[name], values, err_msg=name)
                assert other[name].dtype == values.dtype
        assert manifest["unused"] == ({"id": 60} if schema == "chat" else {})
        assert ("id (60)" in describe(manifest, "out")) == (schema == "chat")
    with pytest.raises(DataError, match=rf"{path}:6: .*no place for"):
        prepared_to(tmp_path / "error", corpus, DataConfig(source=str(path), length=64), "chat")
    none = DataConfig(source=str(path), length=64, on_bad="skip", max_bad=0)
    with pytest.raises(DataError, match=rf"more than max_bad=0 [^$]*{path}:6"):
        prepared_to(tmp_path / "none", corpus, none, "chat")


def test_what_cannot_be_prepared(tmp_path, corpus):
    with pytest.raises(DataError, match="prepare each of its sources"):
        mixed = DataConfig(source="", mixture={"a": {"source": "x"}})
        prepared_to(tmp_path / "a", corpus, mixed)
    with pytest.raises(DataError, match="made when a run starts"):
        prepared_to(tmp_path / "a", corpus, config_of(corpus, "a.jsonl"), "preference")


# Reading.


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepared_to(out, corpus, config_of(corpus, "[ab].jsonl"))
    return out


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
    with pytest.raises(DataError, match=r"cannot be chosen anew by 'exact'"):
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
    found = read.take(index)
    for name, values in held.take(index).items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert held._rows and read._rows is None
    held.take([0])["tokens"][0] = 0  # the caller's own
    np.testing.assert_array_equal(held.take(index)["tokens"], found["tokens"])


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
    """Any byte of a shard, changed: the library's checksums see it, or it bears no data."""
    monkeypatch.setattr(prepared_rows, "FEW_BYTES", prepared_rows.FEW_BYTES if few else 0)
    wanted = prepared_rows.PreparedRows(folder, "train")
    index = np.arange(len(wanted))
    rows = wanted.take(index)
    shard = sorted(copy.glob("train-*"))[0]
    whole, seen = shard.read_bytes(), 0
    rng = random.Random(0)
    used = [at for at, byte in enumerate(whole) if byte]
    for at in rng.sample(used, 40):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            found = prepared_rows.PreparedRows(copy, "train").take(index)
        except DataError as error:
            assert str(shard) in str(error)
            seen += 1
        else:
            for name in rows:
                np.testing.assert_array_equal(found[name], rows[name])
    assert seen > 30
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
    found = row_format.decode([record, record], length, dtype, with_mask)
    for name, values in row.items():
        np.testing.assert_array_equal(found[name], np.stack([values, values]))
        assert found[name].dtype == values.dtype
    for broken in (record[:-1], record + b"\0", b"", b"\xff\xff" + record[2:]):
        with pytest.raises(ValueError, match="row"):
            row_format.decode([broken], length, dtype, with_mask)


# Killed, and as a pipeline.


def write_large(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for k in range(6):
        lines = [json.dumps({"text": text(1000 * k + i % 350, 60)}) + "\n" for i in range(400)]
        (corpus / f"{k:02}.jsonl").write_text("".join(lines))
    return corpus


def command(tmp_path, out, *more):
    return [
        sys.executable, "-m", "data.prepare", "--config=configs/pretrain.py:smoke",
        f"--output={out}", "--processes=2", f"--config.data.source={tmp_path}/corpus/*.jsonl",
        "--config.data.dedup=near", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_it_ends_with_the_same_bytes(tmp_path):
    write_large(tmp_path)
    start = time.time()
    subprocess.run(command(tmp_path, tmp_path / "whole"), check=True)
    took, rng, killed = time.time() - start, random.Random(0), 0
    while killed < 20:
        work = subprocess.Popen(command(tmp_path, tmp_path / "out"), start_new_session=True)
        try:
            work.wait(rng.uniform(0.1, 1.0) * took)
        except subprocess.TimeoutExpired:
            os.killpg(work.pid, signal.SIGKILL)
            work.wait()
            killed += 1
        else:  # it was done before: once more from the beginning
            assert work.returncode == 0
            assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
            subprocess.run(["rm", "-r", str(tmp_path / "out")], check=True)
    subprocess.run(command(tmp_path, tmp_path / "out"), check=True)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="pip install 'seedpod[beam]'"
)
def test_a_beam_pipeline_gives_the_same_shards(tmp_path):
    write_large(tmp_path)
    subprocess.run(command(tmp_path, tmp_path / "local"), check=True)
    beam = command(tmp_path, tmp_path / "beam", "--beam", "--beam_options=--runner=DirectRunner")
    subprocess.run(beam, check=True)
    assert bytes_of(tmp_path / "beam") == bytes_of(tmp_path / "local")
