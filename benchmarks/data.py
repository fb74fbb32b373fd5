"""Loading and preparing, side by side with Hugging Face `datasets` and Grain's own loader.

    sh benchmarks/other_env.sh DIR datasets==5.2.0 sentencepiece
    python -m benchmarks.data --other_python=DIR/bin/python

The corpus is the documentation of the running Python, several times over with other numbers in it,
as JSON lines. Rounds alternate between the competitors; what counts is the ratio of medians.

- prepare: data.prepare beside `datasets.map` with the same tokenizer and as many processes, which
  tokenizes, concatenates, splits, and saves.
- load: shuffled batches of packed rows (ids, positions, segments, mask), ours from prepared shards,
  as such a small set is read (held in memory) and as a large one is (record by record); those of
  `datasets` from the same four columns, saved and shuffled: lists as they come, made into
  arrays; with_format("numpy"); and the same over columns declared to be of one length, its fastest
  way. That reads uncompressed arrays from memory, as ours does for data tokenized on the fly, so it
  is compared with that too.
- grain: the same beside a Grain `MapDataset` over the same ArrayRecords that parses each row and
  batches.
- first batch: seconds from opening the folder. memory: growth from batch 1,000 to 100,000.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import app, flags
from array_record.python.array_record_data_source import ArrayRecordDataSource

from data.config import DataConfig
from data.loader import Loader, make_loader
from data.pipeline import open_data
from data.prepare import prepared_rows, row_format
from data.prepare.run import prepare_corpus
from data.ramp import Ramp
from data.read import sources
from data.text.base import Tokenizer
from data.text.tokenizer import load

LENGTH, BATCH, SEED = 1024, 64, 0
STEPS = 400  # of a round of loading
HERE = os.path.dirname(os.path.abspath(__file__))


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
    begin = time.perf_counter()
    config = DataConfig(source=source, length=LENGTH)
    prepare_corpus(config, "text", out, processes=processes, tokenizer=tokenizer)
    return time.perf_counter() - begin


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
    begin = time.perf_counter()
    tokens = sum(next(batches)["tokens"].size for _ in range(steps))
    return tokens / (time.perf_counter() - begin)


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


def other(python: str, *arguments: str) -> float:
    script = os.path.join(HERE, "data_other.py")
    run = subprocess.run([python, script, *arguments], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return float(run.stdout.split()[-1])


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(folder: str, tokenizer: Tokenizer) -> float:
    """Growth of the resident memory in MB from batch 1,000 to 100,000, of eight rows each."""
    config = DataConfig(source=folder, length=LENGTH, heldout_limit=64)
    loader = make_loader(config, open_data(config, "text", tokenizer), 8, SEED)
    before = 0.0
    for step, _ in enumerate(loader.iterate(0, 100_000), start=1):
        if step == 1000:
            before = resident_mb()
    return resident_mb() - before


def compare(
    name: str, figures: dict[str, list[float]], unit: str, more_is_better: bool = True
) -> dict[str, float]:
    medians = {who: statistics.median(values) for who, values in figures.items()}
    (ours, mine), (who, theirs) = medians.items()
    ratio = mine / theirs if more_is_better else theirs / mine
    ranges = ", ".join(f"{k} {min(v):.3g} to {max(v):.3g}" for k, v in figures.items())
    print(f"{name}: {ours} {mine:,.4g}, {who} {theirs:,.4g} {unit}; ratio {ratio:.2f} ({ranges})")
    return {"ratio": ratio} | medians


def main(argv: Sequence[str]) -> None:
    del argv
    python, rounds = flags.FLAGS.other_python, flags.FLAGS.rounds
    results: dict[str, dict[str, float] | float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = write_corpus(f"{folder}/corpus", flags.FLAGS.copies)
        config = DataConfig(source=source, length=LENGTH)
        prepare_corpus(config, "text", f"{folder}/first", kind="sentencepiece", vocab_size=8192)
        tokenizer, model = load(f"{folder}/first"), f"{folder}/first/tokenizer/tokenizer.model"
        preparing = {"ours": [], "datasets": []}
        for _ in range(rounds):
            preparing["ours"].append(ours_prepare(source, f"{folder}/ours", f"{folder}/first", 2))
            if python:
                arguments: tuple[str, ...] = source, model, f"{folder}/hf", str(LENGTH), "2"
                preparing["datasets"].append(other(python, "prepare", *arguments))
        if python:
            results["prepare"] = compare("prepare", preparing, "s", more_is_better=False)
        rows = prepared_rows.PreparedRows(f"{folder}/ours", "train")
        np.save(f"{folder}/rows.npy", rows.take(np.arange(len(rows)))["tokens"])
        np.save(f"{folder}/segments.npy", rows.take(np.arange(len(rows)))["segment_ids"])
        print(f"{len(rows):,} rows of {LENGTH}, {BATCH} a batch")
        kinds = {"datasets, lists": "lists", "datasets, NumPy": "numpy", "datasets, fixed": "fixed"}
        mine = {"ours, as large": open_as_large, "ours, in memory": open_in_memory}
        loading = {who: [] for who in ("ours", *mine, *kinds)}
        graining = {"ours": [], "grain": []}
        for _ in range(rounds):
            loader = open_ours(f"{folder}/ours", tokenizer)
            loading["ours"].append(rate(loader.iterate(0, STEPS + 10), STEPS))
            graining["ours"].append(loading["ours"][-1])
            for who, opened in mine.items():
                batches = opened(f"{folder}/ours").iterate(0, STEPS + 10)
                loading[who].append(rate(batches, STEPS))
            graining["grain"].append(rate(grain_batches(f"{folder}/ours"), STEPS))
            if python:
                arguments = f"{folder}/rows.npy", f"{folder}/segments.npy", str(BATCH), str(STEPS)
                for who, kind in kinds.items():
                    loading[who].append(other(python, "load", *arguments, kind))
        if python:
            pairs = [(who, other_) for who in ("ours", "ours, as large") for other_ in kinds]
            pairs.append(("ours, in memory", "datasets, fixed"))
            for pair in pairs:
                figures = {who: loading[who] for who in pair}
                results[", ".join(("load", *pair))] = compare("load", figures, "tokens/s")
        results["grain"] = compare("grain", graining, "tokens/s")
        begin = time.perf_counter()
        next(open_ours(f"{folder}/ours", tokenizer).iterate(0, 10))
        results["first"] = time.perf_counter() - begin
        print(f"first batch: {results['first']:.3f} s")
        if flags.FLAGS.memory:
            results["memory"] = growth(f"{folder}/ours", tokenizer)
            print(f"memory: {results['memory']:+.1f} MB from batch 1,000 to 100,000")
    if flags.FLAGS.json:
        with open(flags.FLAGS.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    flags.DEFINE_string(
        "other_python", "", "The Python of an environment with `datasets`; empty: ours alone."
    )
    flags.DEFINE_integer("rounds", 3, "Runs of each competitor.")
    flags.DEFINE_integer("copies", 4, "Copies of the documentation in the corpus.")
    flags.DEFINE_bool("memory", True, "Also measure memory over 100,000 batches.")
    flags.DEFINE_string("json", "", "Write the figures here as JSON.")
    app.run(main)
