"""What the benchmarks on real data share: flags, records, splits, an open model, a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags

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
    flags.DEFINE_string("workdir", None, "Where all is kept.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of activations and matmuls.")
    flags.mark_flags_as_required(["file", "model", "workdir"])


def open_workdir() -> Path:
    """The workdir that the flags name, with the log of libraries in it."""
    workdir = Path(flags.FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    quiet_to_file(str(workdir / "log.txt"))
    return workdir


def records(path: Path | str) -> list[dict]:
    with reading.opened(str(path)) as lines:
        return [json.loads(line) for line in lines]


def heldout(key: str, share: float) -> bool:
    """Whether what has this key is put aside; the same on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) < share * 2**32


def examples(path: Path | str, read: Callable, tokenizer: Tokenizer, length: int) -> list[dict]:
    """Rankings that fit, in the form that training reads: `messages`, `responses`, `rank`."""
    found, as_example = [], normaliser("preference")
    for record in records(path):
        try:
            example = as_example(read(record))
        except DataError:  # answers that are equal, or all right or all wrong
            continue
        if max(len(ids) for ids in rendered(example, tokenizer)) <= length:
            found.append(example)
    return found


def rendered(example: dict, tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids of the prompt with each answer, to the sign that ends it."""
    every = []
    for text in example["responses"]:
        answer = {"role": "assistant", "content": text}
        ids, mask = render(tokenizer, [*example["messages"], answer])
        every.append(ids[: np.flatnonzero(mask)[-1] + 1])
    return every


def key(example: dict) -> str:
    """What an example is put aside by: the first thing that was asked."""
    return next(m["content"] for m in example["messages"] if m["role"] == "user")


def divide(
    every: Sequence[dict], share: float, workdir: Path
) -> tuple[dict[str, Path], list[dict]]:
    """Rankings with a share of the questions put aside.

    Returns:
      ({"train", "heldout"} files of the preference schema, the examples put aside).
    """
    sides = {"train": [], "heldout": []}
    for example in every:
        sides["heldout" if heldout(key(example), share) else "train"].append(example)
    paths = {}
    for side, rows in sides.items():
        found = [
            {"prompt": e["messages"], **{k: e[k] for k in ("responses", "rank")}} for e in rows
        ]
        paths[side] = write(workdir / f"{side}.jsonl", found)
    return paths, sides["heldout"]


def write(path: Path, rows: Iterable[dict]) -> Path:
    """JSON lines; a file that is there is left, since a run that goes on must see the same."""
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
    """Trains; what is trained is there afterwards, or goes on where it was."""
    recipe.model.dtype = dtype
    loop.run(recipe, workdir)


def recipe(
    stage: str, policy: Path, train: Path, other: Path, steps: int, rate: float
) -> ml_collections.ConfigDict:
    """Adapters beside every projection of an open model, on a CPU."""
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
    # What is held out is scored when training has ended, pair by pair.
    settings.evaluate.update(dict(every=0, samples=0, at_start=False))
    settings.data.heldout_limit = 8
    settings.checkpoint.every = 20
    settings.log_every = 1
    return settings
