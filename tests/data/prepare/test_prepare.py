"""Preparing a corpus: the rows that a run would make, and the same bytes after interruptions."""

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
from prepared_corpus import TOKENIZER, bytes_of, config_of, prepared_to, text

from data.config import DataConfig
from data.errors import DataError
from data.loader import make_loader
from data.pipeline import Data, open_data
from data.prepare import prepared_rows
from data.prepare.plan import UNFINISHED, PrepareJob, make_plan, make_tokenizer
from data.prepare.run import describe
from data.prepare.shards import write_shards
from data.prepare.survey import decide, survey
from data.read import lines
from data.rows import num_rows, take_rows
from data.splits import read_examples
from data.text.builtin import BOS
from data.text.tokenizer import load


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
    data = open_data(there, schema, TOKENIZER)
    for split in ("train", "heldout"):
        rows = take_rows(getattr(data, split), np.arange(len(getattr(wanted, split)["tokens"])))
        assert len(rows["tokens"]) == num_rows(getattr(data, split))
        for key, values in getattr(wanted, split).items():
            np.testing.assert_array_equal(rows[key], values)
            assert rows[key].dtype == values.dtype
    assert data.heldout_examples == wanted.heldout_examples
    real = int(np.sum(wanted.train["segment_ids"] > 0))
    assert manifest["packing"]["tokens"] == real
    assert manifest["packing"]["efficiency"] == real / wanted.train["tokens"].size
    batches = [make_loader(c, d, 8, 5).batch(7) for c, d in ((config, wanted), (there, data))]
    np.testing.assert_array_equal(batches[0]["tokens"], batches[1]["tokens"])


def documents(rows):
    """The texts of packed rows: a split text continues with its last token repeated."""
    collected, rows = [], rows.take(np.arange(len(rows)))
    for ids, segments in zip(rows["tokens"], rows["segment_ids"]):
        for number in range(1, segments.max() + 1):
            piece = ids[segments == number].tolist()
            collected.append(piece) if piece[0] == BOS else collected[-1].extend(piece[1:])
    return [TOKENIZER.decode(ids) for ids in collected]


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
    again = prepared_to(tmp_path / "out", corpus, config)  # nothing is left to do
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
    source.unlink()  # it is no longer needed
    prepared_to(tmp_path / "out", corpus, config)


def test_fingerprints_are_of_the_content(tmp_path, corpus):
    """Equal for the same text elsewhere, prepared or not; different for a changed letter."""
    by_name = {}
    for name, change in (("a", "w1 "), ("b", "w1 "), ("c", "w2 ")):
        (tmp_path / name).mkdir()
        text = (corpus / "a.jsonl").read_text().replace("w1 ", change, 1)
        (tmp_path / name / "x.jsonl").write_text(text)
        config = config_of(tmp_path / name, "x.jsonl")
        prepared_to(tmp_path / name / "out", corpus, config)
        there = DataConfig(source=str(tmp_path / name / "out"), length=96)
        both = DataConfig(source="", length=96, mixture={
            "a": {"source": config.source}, "b": {"source": there.source}})  # fmt: skip
        by_name[name] = [
            open_data(c, "text", TOKENIZER).fingerprint() for c in (config, there, both)
        ]
    assert by_name["a"] == by_name["b"] and len({*by_name["a"], *by_name["c"]}) == 6
    answers = [{"messages": [], "answer": a, "where": "x"} for a in "12"]
    data = [Data({}, {}, [], {}, train_examples=(a,)) for a in answers]
    assert data[0].fingerprint() != data[1].fingerprint()
    moved = dataclasses.replace(data[0], train_examples=({**answers[0], "where": "y"},))
    assert moved.fingerprint() == data[0].fingerprint()


def test_a_folder_may_be_made_anew_with_other_settings(tmp_path, corpus):
    """Prepares in one process, as in a notebook."""
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
    """The rows that a run would make, including weights of all kinds, and the same counts."""
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
        data = open_data(DataConfig(source=str(folder), length=64), schema, TOKENIZER)
        assert 0.5 in wanted.train["loss_mask"] and manifest["skipped"] == dict(wanted.skipped)
        for split in ("train", "heldout"):
            rows, other = getattr(wanted, split), getattr(data, split)
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
        else:  # it was finished before the kill: start again
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
