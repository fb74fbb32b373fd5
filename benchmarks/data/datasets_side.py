"""The side of `datasets` in benchmarks/data, run by a Python that has it: prints one number.

python datasets_side.py prepare SOURCE MODEL OUT LENGTH PROCESSES   # seconds
python datasets_side.py load ROWS SEGMENTS BATCH STEPS lists|numpy|fixed  # tokens a second
python datasets_side.py versions   # {package: version}
"""

import glob
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import sentencepiece

datasets.disable_progress_bars()


def prepare(source: str, model: str, out: str, length: str | int, processes: str | int) -> float:
    length, processes = int(length), int(processes)
    cache = tempfile.mkdtemp()
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    texts = datasets.load_dataset(
        "json", data_files=sorted(glob.glob(source)), split="train", cache_dir=cache
    )
    processor = []

    def tokenize(batch):
        if not processor:
            processor.append(sentencepiece.SentencePieceProcessor(model_file=model))
        ids = processor[0].encode(batch["text"])
        return {"input_ids": [[2, *i, 3] for i in ids]}

    def group(batch):
        flat = [i for ids in batch["input_ids"] for i in ids]
        end = len(flat) // length * length
        return {"input_ids": [flat[i : i + length] for i in range(0, end, length)]}

    encoded = texts.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
    encoded.map(group, batched=True, num_proc=processes).save_to_disk(out, num_proc=processes)
    took = time.perf_counter() - begin
    shutil.rmtree(cache)
    return took


def load(rows_path: str, segments: str, batch: str | int, steps: str | int, kind: str) -> float:
    batch, steps = int(batch), int(steps)
    tokens, segment_ids = np.load(rows_path), np.load(segments)
    starts = np.diff(segment_ids, axis=1, prepend=0) != 0
    index = np.arange(tokens.shape[1])
    positions = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    columns = {
        "tokens": tokens,
        "positions": positions.astype(np.int32),
        "segment_ids": segment_ids,
        "loss_mask": ((segment_ids > 0) & (positions > 0)).astype(np.float32),
    }
    length = tokens.shape[1] if kind == "fixed" else -1
    features = datasets.Features(
        {
            name: datasets.Sequence(datasets.Value(str(values.dtype)), length=length)
            for name, values in columns.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        made = datasets.Dataset.from_dict(
            {name: list(values) for name, values in columns.items()}, features=features
        )
        made.save_to_disk(folder)
        saved = datasets.load_from_disk(folder)

        def batches():
            epoch = 0
            while True:
                shuffled = saved.shuffle(seed=epoch).with_format(
                    None if kind == "lists" else "numpy"
                )
                for rows in shuffled.iter(batch, drop_last_batch=True):
                    yield {name: np.asarray(rows[name], v.dtype) for name, v in columns.items()}
                epoch += 1

        stream = batches()
        for _ in range(5):
            next(stream)
        begin = time.perf_counter()
        count = sum(next(stream)["tokens"].size for _ in range(steps))
        return count / (time.perf_counter() - begin)


def versions() -> dict[str, str]:
    return {"datasets": datasets.__version__, "sentencepiece": sentencepiece.__version__}


COMMANDS: dict[str, Callable[..., Any]] = {"prepare": prepare, "load": load, "versions": versions}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
