"""Results of benchmarks on disk.

OUT/results.json                        of the last command
OUT/arc_easy-5shot-1f0c…/items.jsonl    a line a document (train/tasks/evaluation/items.py)
                        /settings.json  everything that decides the answers; its hash is in the
                                        folder's name, so that items of two settings never mix
                        /result.json    the metrics
                        /samples.jsonl  a few right and wrong answers
                        /confusion.csv  of a classification
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from data.atomic import write_atomically
from data.read import json_files
from train.checkpoints import fingerprints, saved_models
from train.interop.opening import Opened
from train.runtime import outputs, strict_json
from train.tasks.base import Estimate
from train.tasks.evaluation.benchmark import Benchmark, Result
from train.tasks.evaluation.items import dumps, fingerprint
from train.tasks.support import classification


class Model(NamedTuple):
    """The inputs that decide the answers of a model.

    Attributes:
      name: of the run or the open model. step: of the checkpoint, if it is one.
      weights, architecture, tokenizer: fingerprints. dtype: of the computation.
    """

    name: str
    step: int | None
    weights: str
    architecture: str
    tokenizer: str
    dtype: str


def model_of(opened: Opened, step: int | None) -> Model:
    """The description of an opened model."""
    architecture = fingerprint([saved_models.decisive(opened.config)])
    weights = fingerprints.fingerprint(opened.params)
    dtype = str(opened.config.dtype)
    return Model(opened.name, step, weights, architecture, opened.tokenizer.fingerprint, dtype)


def settings_of(model: Model, benchmark: Benchmark, given: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the answers to a benchmark.

    Args:
      given: settings of the command, such as `limit`, to say what differs; most of their effect is
        in the hashes of documents and requests.
    """
    decides = {name: value for name, value in model._asdict().items() if name not in _NAMES}
    task = {"task": benchmark.task.name, "shots": benchmark.shots}
    return {**decides, **task, **given, **benchmark.hashes}


_NAMES = ("name", "step")  # of a model, which may move and be trained again


def folder_of(out: epath.PathLike, settings: Mapping[str, Any]) -> epath.Path:
    """The folder of a benchmark with these settings."""
    name = file_name(f"{settings['task']}-{settings['shots']}shot")
    return epath.Path(out) / f"{name}-{fingerprint([settings])[:8]}"


def file_name(name: str) -> str:
    """A name of a task with only the characters that a file's name has everywhere."""
    return re.sub(r"[^\w.-]", "_", name)


def begin(folder: epath.Path, settings: Mapping[str, Any], name: str) -> list[str]:
    """Creates the folder of a benchmark, unless it exists; returns messages about folders of the
    same model and benchmark with other settings.

    Args:
      name: the model's.

    Raises:
      ValueError: it cannot be created.
    """
    path = folder / "settings.json"
    if path.exists():
        return []
    outputs.make_folder(folder, "out")
    messages = []
    prefix = folder.name.rpartition("-")[0] + "-"
    for other in sorted(folder.parent.glob(f"{prefix}*")):
        if other == folder or not (other / "settings.json").exists():
            continue
        before = json_files.read(other / "settings.json")
        if before.get("model") == name or before.get("weights") == settings["weights"]:
            differing = _differences(before, settings)
            messages.append(f"{other} has items with {differing}, which stay there")
    write(path, {"model": name, **settings})
    return messages


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`limit=100 instead of 200, other weights`, of two settings."""
    names = [name for name in now if before.get(name) != now[name]]
    plain = [f"{n}={before.get(n)} instead of {now[n]}" for n in names if n not in _HASHES]
    # Other settings make other documents and requests.
    hashes = [n for n in names if n in _HASHES and not (plain and n in ("documents", "requests"))]
    return ", ".join([*plain, *(_HASHES[name] for name in hashes)])


_HASHES = {
    "weights": "other weights", "architecture": "another architecture",
    "tokenizer": "another tokenizer", "documents": "other documents", "requests": "other prompts",
}  # fmt: skip


def as_json(result: Result, benchmark: Benchmark, folder: epath.Path) -> dict[str, Any]:
    """A result as the entry of results.json."""
    return {
        "task": result.task.name,
        "shots": result.shots,
        "source": benchmark.source,
        **benchmark.hashes,
        "metrics": {name: estimate(value) for name, value in result.metrics.items()},
        **({"groups": {n: estimate(v) for n, v in result.by_group.items()}}
           if result.by_group else {}),
        **(_classes(result) if result.task.labels else {}),
        "items": result.items,
        "cut": result.cut,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "folder": folder.name,
    }  # fmt: skip


def _classes(result: Result) -> dict[str, Any]:
    """The confusion matrix of a classification, and the scores of each label."""
    labels = result.task.labels
    return {
        "confusion": classification.confusion(labels, result.outcomes)._asdict(),
        "labels": classification.scores_of(labels, result.outcomes),
    }


def write_confusion(path: epath.Path, result: Result) -> None:
    """Writes the confusion matrix as CSV: a row a true label, a column a label of answers."""
    matrix = classification.confusion(result.task.labels, result.outcomes)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["label", *matrix.labels])
    table.writerows([label, *row] for label, row in zip(result.task.labels, matrix.counts))
    write_atomically(path, out.getvalue())


def estimate(value: Estimate) -> dict[str, float]:
    """A value with its standard error."""
    return {"value": value.value, "stderr": value.stderr}


def write(path: epath.Path, value: Any) -> None:
    """Writes a JSON file."""
    write_atomically(path, strict_json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: epath.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines."""
    write_atomically(path, b"".join(dumps(record) + b"\n" for record in records))
