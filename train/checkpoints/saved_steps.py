"""`saved.json` of a workdir: the steps that are saved, so that a run whose checkpoints are gone is
not taken for a new one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypedDict

import orbax.checkpoint as ocp
from etils import epath

from data.atomic import write_atomically
from data.errors import DataError
from data.read import json_files
from train.runtime import outputs
from train.runtime.records import read_metrics
from train.terminal.console import print_error

NAME = "saved.json"


class Record(TypedDict):
    """The content of saved.json: committed steps, and the scores of those that have one."""

    steps: list[int]
    scores: dict[str, float]


def read(workdir: epath.PathLike) -> tuple[list[int], dict[int, float]] | None:
    """(steps, {step: score}); None in a workdir without the file."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        record = json_files.read(path, Record)
        return record["steps"], {int(step): score for step, score in record["scores"].items()}
    except (DataError, ValueError) as error:
        print_error(f"warning: {error}; the best checkpoint is unknown")
        return [], {}


def write(workdir: epath.PathLike, steps: Iterable[int], scores: Mapping[int, float]) -> None:
    """Writes the file; a failure never ends the run."""
    steps = sorted(steps)
    record = Record(steps=steps, scores={str(s): scores[s] for s in steps if s in scores})
    try:
        write_atomically(epath.Path(workdir) / NAME, json.dumps(record) + "\n")
    except OSError as error:
        outputs.failed(NAME, error, "it keeps the steps that were saved before")


def has_unfinished(workdir: epath.PathLike) -> bool:
    """Whether a save was begun in a workdir and not committed."""
    folder = epath.Path(workdir) / "checkpoints"
    return folder.exists() and any(ocp.utils.TMP_DIR_SUFFIX in p.name for p in folder.iterdir())


def lost(workdir: epath.PathLike, unfinished: bool) -> str:
    """A text about checkpoints that a run without any has saved, or "".

    A run of an earlier version, which has no saved.json, has saved if it logged a step after the
    first that was due, or its last one, and no save was left unfinished.
    """
    record = read(workdir)
    if record is not None:
        newest = max(record[0], default=0)  # step 0 is an imported model
        return f"has saved step {newest}" if newest else ""
    config, logged = epath.Path(workdir) / "config.json", read_metrics(workdir, "train")
    if unfinished or not logged or not config.exists():
        return ""
    settings = json_files.read(config)
    every = settings.get("checkpoint", {}).get("every", 0)
    step = logged[-1]["step"]
    saves = (every and step > every) or step >= settings.get("steps", step + 1)
    return f"has logged step {step}" if saves else ""
