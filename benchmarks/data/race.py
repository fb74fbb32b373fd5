"""The sides of the race of loaders: ours, Grain's, and what both read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from benchmarks import machine, turns
from data.config import DataConfig
from data.loader import Loader, make_loader
from data.pipeline import open_data
from data.prepare import prepared_rows, row_format
from data.prepare.run import prepare_corpus
from data.ramp import Ramp
from data.read import sources
from data.text.base import Tokenizer

LENGTH, BATCH, SEED = 1024, 64, 0
STEPS = 400  # of a round of loading


def write_corpus(folder: str, copies: int) -> str:
    """Writes JSON lines in eight files; copies differ, so that no document is a duplicate."""
    os.makedirs(folder)
    examples = sources.read("tfds:pydocs/text:train", "text", tfds_dir=_tfds_dir()).examples
    texts = [example["text"] for example in examples]
    for k in range(8):
        with open(f"{folder}/{k}.jsonl", "w") as file:
            for copy in range(copies):
                for text in texts[k::8]:
                    file.write(json.dumps({"text": f"Copy {copy}. {text}"}) + "\n")
    return f"{folder}/*.jsonl"


def _tfds_dir() -> str:
    return os.path.expanduser(DataConfig(source="x").tfds_dir)


def ours_prepare(source: str, out: str, tokenizer: str, processes: int) -> float:
    shutil.rmtree(out, ignore_errors=True)
    config = DataConfig(source=source, length=LENGTH)
    with turns.clock() as took:
        prepare_corpus(config, "text", out, processes=processes, tokenizer=tokenizer)
    return took.seconds


def prepare_first(source: str, out: str) -> None:
    """Prepares the corpus with a SentencePiece model of its own, which all sides then use."""
    config = DataConfig(source=source, length=LENGTH)
    prepare_corpus(config, "text", out, kind="sentencepiece", vocab_size=8192)


def write_arrays(folder: str, out: str) -> int:
    """Writes the tokens and segments of prepared rows as arrays for the other side; returns the
    number of rows."""
    rows = prepared_rows.PreparedRows(folder, "train")
    arrays = rows.take(np.arange(len(rows)))
    np.save(f"{out}/rows.npy", arrays["tokens"])
    np.save(f"{out}/segments.npy", arrays["segment_ids"])
    return len(rows)


def open_ours(folder: str, tokenizer: Tokenizer) -> Loader:
    config = DataConfig(source=folder, length=LENGTH, heldout_limit=64)
    return make_loader(config, open_data(config, "text", tokenizer), BATCH, SEED)


def open_as_large(folder: str) -> Loader:
    """A loader that reads each record on demand, however few there are."""
    few, prepared_rows.FEW_BYTES = prepared_rows.FEW_BYTES, 0
    rows = prepared_rows.PreparedRows(folder, "train")
    prepared_rows.FEW_BYTES = few
    return Loader(rows, Ramp(BATCH), SEED)


def open_in_memory(folder: str) -> Loader:
    """A loader of the same rows in memory, as with data tokenized on the fly."""
    rows = prepared_rows.PreparedRows(folder, "train")
    return Loader(rows.take(np.arange(len(rows))), Ramp(BATCH), SEED)


def rate(batches: Iterator[dict[str, np.ndarray]], steps: int) -> float:
    """Tokens a second of an iterator, after its first five batches."""
    for _ in range(5):
        next(batches)
    with turns.clock() as took:
        tokens = sum(next(batches)["tokens"].size for _ in range(steps))
    return tokens / took.seconds


def grain_batches(folder: str) -> Iterator[dict[str, np.ndarray]]:
    rows = prepared_rows.PreparedRows(folder, "train")
    manifest = rows.manifest
    dtype = np.dtype(manifest["token_dtype"])

    def parse(record):
        row = row_format.decode([record], LENGTH, dtype, False)
        return {name: values[0] for name, values in row.items()}

    source = ArrayRecordDataSource(rows._paths)
    dataset = grain.MapDataset.source(source).shuffle(seed=SEED).repeat()
    return iter(dataset.map(parse).batch(BATCH).to_iter_dataset())


def growth(folder: str, tokenizer: Tokenizer) -> float:
    """Growth of the resident memory in MB from batch 1,000 to 100,000, of eight rows each."""
    config = DataConfig(source=folder, length=LENGTH, heldout_limit=64)
    loader = make_loader(config, open_data(config, "text", tokenizer), 8, SEED)
    before = 0
    for step, _ in enumerate(loader.iterate(0, 100_000), start=1):
        if step == 1000:
            before = machine.resident_bytes()
    return (machine.resident_bytes() - before) / 1e6
