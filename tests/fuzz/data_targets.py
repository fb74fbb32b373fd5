"""Fuzz targets: files of records, templates over them, prepared rows, text."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import unicodedata
from collections import Counter
from random import Random

import numpy as np
import pyarrow
from pyarrow import parquet

from data import pipeline, splits
from data.clean import duplicates, filters, redact
from data.config import DataConfig
from data.errors import DataError
from data.prepare import row_cache
from data.prepare.run import prepare_corpus
from data.read import sources
from data.schemas.normaliser import normaliser
from data.text import tokenizer as tokenizers
from printable import escaped
from tests.fuzz import mutate
from tests.fuzz.engine import Target

BYTE = tokenizers.train("byte", [], 0)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "Four."},
]
RECORDS = {
    "text": [{"text": f"Document {i} says {'word ' * i}."} for i in range(12)],
    "chat": [{"messages": TURNS}, {"messages": TURNS[1:3], "id": 7}]
    + [{"prompt": f"Question {i}?", "response": f"Answer {i}."} for i in range(8)]
    + [
        {"messages": [TURNS[1], TURNS[2] | {"weight": 0.5}, TURNS[3], TURNS[4] | {"train": True}]},
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"messages": [TURNS[1] | {"content": [{"type": "text", "text": "Hi"}]}, TURNS[2]]},
    ],
    "prompt": [{"prompt": f"How much is {i} + 1?", "answer": str(i + 1)} for i in range(8)]
    + [{"messages": TURNS[:4]}],
    "preference": [
        {"prompt": f"Question {i}?", "chosen": f"Good {i}.", "rejected": f"Bad {i}."}
        for i in range(6)
    ]
    + [
        {"prompt": "Rank.", "responses": ["a1", "b2", "c3"], "rank": [0, 1, 1], "confidence": 0.8},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: x",
        },
        {"chosen": TURNS[1:3], "rejected": [TURNS[1], {"role": "assistant", "content": "Three."}]},
        {"prompt": "P", "chosen": "c", "rejected": [{"kind": "near", "text": "n"}]},
    ],
}
FIELDS = {
    "text": [{}, {"text": "{text}"}, {"text": "{title}\n{text}"}, {"text": "{a.b[0]}"}],
    "chat": [{}, {"prompt": "{prompt}", "response": "{response}"}, {"messages": "{messages}"}],
    "prompt": [{}, {"prompt": "{prompt}", "answer": "{answer}"}],
    "preference": [{}, {"prompt": "{prompt}", "responses": ["{chosen}", "{rejected}"]}],
}


def _lines(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _csv(records, mark: str) -> bytes:
    names = list(records[-5])
    rows = [names] + [[str(r.get(n, "")) for n in names] for r in records]
    return "".join(
        mark.join(f'"{c}"' if mark == "," else c for c in row) + "\n" for row in rows
    ).encode()


def _parquet(records) -> bytes:
    names = list(records[-5])
    out = io.BytesIO()
    parquet.write_table(
        pyarrow.table({n: [str(r.get(n, "")) for r in records] for n in names}), out
    )
    return out.getvalue()


def _good_files(folder):
    """{schema: {file name: bytes}}."""
    del folder
    out = {}
    for schema, records in RECORDS.items():
        flat = [r for r in records if all(isinstance(v, str) for v in r.values())]
        out[schema] = {
            "a.jsonl": _lines(records),
            "a.json": json.dumps(records).encode(),
            "a.csv": _csv(flat, ","),
            "a.tsv": _csv(flat, "\t"),
            "a.parquet": _parquet(flat),
            "a.jsonl.gz": gzip.compress(_lines(records), 1),
        }
        if schema == "text":
            out[schema]["a.txt"] = "\n".join(r["text"] for r in records).encode()
    return out


def _read(rng: Random, path, schema: str) -> None:
    """Reads a file like a run, and builds rows from it."""
    config = DataConfig(
        source=str(path),
        heldout_fraction=rng.choice((0.05, 0.5)),
        fields=rng.choice(FIELDS[schema]),
        documents=rng.choice(("line", "file")),
        on_bad=rng.choice(("error", "skip")),
        on_long=rng.choice(("error", "cut", "drop")),
        max_bad=rng.choice((0, 5, 1000)),
        dedup=rng.choice(("", "", "exact", "near")),
        redact=rng.choice(("", "email,phone,card,account")),
        length=rng.choice((8, 64, 512)),
        filters=rng.choice(({}, {"max_symbols": 0.9})),
    )
    examples = splits.read_examples(config, schema)
    pipeline.open_data(config, schema, BYTE, examples, prompt_length=rng.choice((4, 64)))


def _records(rng: Random, good, folder) -> None:
    schema = rng.choice(list(good))
    name = rng.choice(list(good[schema]))
    data = good[schema][name]
    if name.endswith(".jsonl"):
        data = mutate.damaged_lines(rng, data)
    elif name.endswith(".json"):
        data = mutate.damaged_json(rng, data)
    elif name.endswith(".gz") and rng.random() < 0.5:
        data = gzip.compress(mutate.damaged_lines(rng, gzip.decompress(data)), 1)
    else:
        data = mutate.damaged_bytes(rng, data, tuple(good[schema].values()))
    path = folder / name
    path.write_bytes(data)
    _read(rng, path, schema)


def _good_folder(folder):
    """{file name: bytes} of a folder that `datasets.save_to_disk` wrote."""
    table = pyarrow.table(
        {n: [r[n] for r in RECORDS["preference"][:6]] for n in ("prompt", "chosen")}
    )
    stream = io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, 3)
    return {
        "data-00000-of-00001.arrow": stream.getvalue(),
        "state.json": json.dumps(
            {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        ).encode(),
        "dataset_info.json": b"{}",
    }


def _write(folder, files, damaged: str, data: bytes):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if name == damaged else content)
    return folder


def _dataset_folder(rng: Random, good, folder) -> None:
    name = rng.choice(list(good))
    damage = mutate.damaged_json if name.endswith(".json") else mutate.damaged_bytes
    path = _write(folder / "saved", good, name, damage(rng, good[name]))
    fields = {"prompt": "{prompt}", "response": "{chosen}"}
    sources.read(str(path), "chat", fields=fields, on_bad=rng.choice(("error", "skip")))


def _template(rng: Random, good, folder) -> None:
    """Templates over the fields of records, and records under them."""
    del folder
    schema = rng.choice(list(RECORDS))
    names = ["text", "messages", "prompt", "response", "chosen", "rejected", "responses", "rank",
             "best", "good", "confidence", "answer", "system", "x"]  # fmt: skip
    pieces = ("{", "}", "{{", "}}", "{text}", "{prompt}", "{a.b[0]}", "{a[9999999999]}", "{0}",
    "{!r}",
              "{x:>9}", "{a..b}", "{[0]}", " ", "\n", "é", "{messages[0].content}",
              "{}")  # fmt: skip
    fields = {}
    for _ in range(rng.randrange(3)):
        value = "".join(rng.choice(pieces) for _ in range(rng.randrange(5)))
        if rng.random() < 0.2:
            value = rng.choice(([value], [value, value], 5, None, {"a": value}, []))
        fields[rng.choice(names)] = value
    normalise = normaliser(schema, fields)
    for _ in range(5):
        record = mutate.damaged_value(rng, rng.choice(RECORDS[schema]))
        if isinstance(record, dict):
            try:
                normalise(record)
            except DataError as error:
                if not error.reason:
                    raise


def _good_corpus(folder):
    """Prepared rows: {file name: bytes}."""
    source = folder / "source.jsonl"
    source.write_bytes(_lines(RECORDS["text"] * 2))
    BYTE.save(folder / "tokenizer")
    config = DataConfig(source=str(source), length=32, heldout_fraction=0.2)
    prepare_corpus(config, "text", str(folder / "corpus"), tokenizer=str(folder))
    files = sorted(p for p in (folder / "corpus").rglob("*") if p.is_file())
    return {str(p.relative_to(folder / "corpus")): p.read_bytes() for p in files}


def _prepared(rng: Random, good, folder) -> None:
    name = rng.choice([*good, "manifest.json", "manifest.json"])
    damage = mutate.damaged_json if name.endswith(".json") else mutate.damaged_bytes
    if name.endswith(".jsonl"):
        damage = mutate.damaged_lines
    data = damage(rng, good[name])
    if "array_record" in name and rng.random() < 0.7:  # past the check of its size
        data = (data + good[name])[: len(good[name])]
    path = _write(folder / "prepared", good, name, data)
    tokenizer = tokenizers.load(path)
    data = pipeline.open_data(DataConfig(source=str(path), length=32), "text", tokenizer)
    data.train.take(np.arange(min(len(data.train), 2000)))


def _good_rows(folder):
    """(the settings of a row cache, its bytes, its examples)."""
    source = folder / "rows.jsonl"
    source.write_bytes(_lines(RECORDS["text"]))
    config = DataConfig(source=str(source), length=32, heldout_fraction=0.2, tfds_dir=str(folder))
    path = folder / "rows.zip"
    examples = splits.read_examples(config, "text")
    row_cache.open_data(path, config, "text", BYTE, lambda: examples)[1]()
    return config, path.read_bytes(), examples


def _row_cache(rng: Random, good, folder) -> None:
    config, data, examples = good
    if rng.random() < 0.5:
        damaged = mutate.damaged_bytes(rng, data)
    else:  # as somebody makes it, with the right checksum
        content = mutate.damaged_bytes(rng, data[32:])
        damaged = hashlib.sha256(content).digest() + content
    (folder / "rows.zip").write_bytes(damaged)
    row_cache.open_data(folder / "rows.zip", config, "text", BYTE, lambda: examples)


def _text(rng: Random, good, folder) -> None:
    """Functions of text, which may not fail for any text."""
    del good, folder
    from train.rl import rewards, verifiers

    text, other = mutate.text(rng), mutate.text(rng)
    example = {"text": text, "where": "x:1"}
    redact.redact(example, tuple(redact.KINDS), Counter())
    filters.repetition(text), filters.symbols(text)
    words = duplicates.words_of(text)
    duplicates.note(example, rng.choice(duplicates.KINDS), {})
    assert all(words)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in escaped(text))
    assert BYTE.decode(BYTE.encode(text)) == text
    episode = rewards.Episode(text, text, np.arange(3), np.arange(3), other)
    assert verifiers.gsm8k(episode) in (0.0, 1.0) and verifiers.exact(episode) in (0.0, 1.0)


TARGETS = [
    Target("records", _good_files, _records, 5),
    Target("datasets_folder", _good_folder, _dataset_folder, 1),
    Target("field_templates", lambda folder: None, _template, 2),
    Target("prepared_rows", _good_corpus, _prepared, 2),
    Target("row_cache", _good_rows, _row_cache, 1),
    Target("text", lambda folder: None, _text, 2),
]
