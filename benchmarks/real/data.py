"""Shared parts of the benchmarks on real data: flags, records, splits, an open model, a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags

from benchmarks import results
from data.errors import DataError
from data.read import reading
from data.schemas.normaliser import normaliser
from data.text.base import Tokenizer
from data.text.chat import render
from train import loop
from train.config import run
from train.interop import convert
from train.runtime.metrics import quiet_to_file

PROJECTIONS = "query,key,value,out,gate,up,down"


def define_flags() -> None:
    flags.DEFINE_string("file", None, "The gzipped JSON lines.")
    flags.DEFINE_string("model", None, "The open model: a GGUF file or Hugging Face directory.")
    flags.DEFINE_string("workdir", None, "Folder of all files.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "Dtype of activations and matmuls."
    )
    results.define_flags()
    flags.mark_flags_as_required(["file", "model", "workdir"])


def open_workdir() -> Path:
    """Creates the workdir that the flags name, with the log of libraries in it."""
    workdir = Path(flags.FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    quiet_to_file(str(workdir / "log.txt"))
    return workdir


def records(path: Path | str) -> list[dict]:
    with reading.opened(str(path)) as lines:
        return [json.loads(line) for line in lines]


def heldout(key: str, share: float) -> bool:
    """Whether the example with this key is held out; the same on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) < share * 2**32


def examples(path: Path | str, read: Callable, tokenizer: Tokenizer, length: int) -> list[dict]:
    """Rankings that fit, in the form that training reads: `messages`, `responses`, `rank`."""
    fitting, as_example = [], normaliser("preference")
    for record in records(path):
        try:
            example = as_example(read(record))
        except DataError:  # answers that are equal, or all right or all wrong
            continue
        if max(len(ids) for ids in rendered(example, tokenizer)) <= length:
            fitting.append(example)
    return fitting


def rendered(example: dict, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of the prompt with each answer, up to the token that ends it."""
    sequences = []
    for text in example["responses"]:
        answer = {"role": "assistant", "content": text}
        ids, mask = render(tokenizer, [*example["messages"], answer])
        sequences.append(ids[: np.flatnonzero(mask)[-1] + 1])
    return sequences


def key(example: dict) -> str:
    """The key by which an example is held out or not: its first question."""
    return next(m["content"] for m in example["messages"] if m["role"] == "user")


def divide(
    rankings: Sequence[dict], share: float, workdir: Path
) -> tuple[dict[str, Path], list[dict]]:
    """Splits rankings, with a share of the questions held out.

    Returns:
      ({"train", "heldout"} files of the preference schema, the held-out examples).
    """
    sides = {"train": [], "heldout": []}
    for example in rankings:
        sides["heldout" if heldout(key(example), share) else "train"].append(example)
    paths = {}
    for side, rows in sides.items():
        lines = [
            {"prompt": e["messages"], **{k: e[k] for k in ("responses", "rank")}} for e in rows
        ]
        paths[side] = write(workdir / f"{side}.jsonl", lines)
    return paths, sides["heldout"]


def write(path: Path, rows: Iterable[dict]) -> Path:
    """Writes JSON lines; an existing file is kept, since a resumed run must read the same."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def base(model: str, workdir: Path) -> Path:
    """The workdir of the imported open model."""
    path = workdir / "base"
    if not (path / "checkpoints").exists():
        convert.import_model(model, path)
    return path


def fit(recipe: ml_collections.ConfigDict, workdir: Path, dtype: str) -> None:
    """Trains in `workdir`, or resumes there."""
    recipe.model.dtype = dtype
    loop.run(recipe, workdir)


def recipe(
    stage: str, policy: Path, train: Path, other: Path, steps: int, rate: float
) -> ml_collections.ConfigDict:
    """The recipe of adapters of every projection of an open model, on a CPU."""
    settings = run.default()
    settings.stage, settings.steps = stage, steps
    settings.init_from.policy = str(policy)
    settings.model.remat = "minimal"
    settings.data.source, settings.data.heldout_source = str(train), str(other)
    settings.data.on_long = "drop"
    settings.loss.z_loss = 0.0
    settings.lora.update(dict(rank=16, alpha=32.0, targets=PROJECTIONS))
    settings.optimizer.update(
        dict(peak_lr=rate, warmup_steps=5, schedule="cosine", weight_decay=0.0, b2=0.99)
    )
    # Held-out pairs are scored after training.
    settings.evaluate.update(dict(every=0, samples=0, at_start=False))
    settings.data.heldout_limit = 8
    settings.checkpoint.every = 20
    settings.log_every = 1
    return settings


def interval(middle: float, low: float, high: float) -> str:
    """A share with its 95% interval."""
    return f"{middle:.1%} ({low:.1%} to {high:.1%})"
