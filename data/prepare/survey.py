"""Choosing the documents of a corpus: `survey` notes what is in each part, `decide` compares the
notes of all parts. Each writes its result atomically, and does nothing if it exists."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections import Counter
from typing import NotRequired, TypedDict

import numpy as np
from etils import epath

from data.atomic import write_atomically
from data.clean import duplicates, filters
from data.config import DataConfig
from data.errors import DataError
from data.prepare.plan import (
    UNFINISHED,
    PrepareJob,
    examples_of,
    read_plan,
    settings_of,
    to_json,
)
from data.read import json_files
from data.schemas.examples import content_key
from data.splits import COPY, group_key, heldout_keys

COUNTERS = ("skipped", "redacted", "unused", "changes")


class Decisions(TypedDict):
    """The content of decisions.json: counters over all parts and, for each part, why each document
    is left out ("" for training, "heldout") and the digest of its documents."""

    skipped: dict[str, int]
    redacted: dict[str, int]
    unused: dict[str, int]
    changes: NotRequired[dict[str, int]]
    reasons: list[list[str]]
    digests: list[str]


def _notes_path(job: PrepareJob, number: int) -> epath.Path:
    return job.work / f"survey-{number:05}.npz"


def survey(job: PrepareJob, number: int) -> int:
    """Writes notes on the documents of one part; returns its number."""
    path = _notes_path(job, number)
    if path.exists():
        return number
    config, skipped, notes, keys, filtered = job.config, Counter(), [], [], []
    runs, redacted, unused, changes = _runs(job), Counter(), Counter(), Counter()
    digest, groups = hashlib.sha256(), []
    for example in examples_of(job, number, skipped, redacted, unused, changes):
        digest.update(to_json(example).encode())
        keys.append(content_key(example))
        groups.append(group_key(example, b""))
        failed = Counter()
        filters.apply([example], config.filters, failed)
        filtered.append(next(iter(failed), ""))
        if config.dedup or runs:
            notes.append(duplicates.note(example, config.dedup, runs))
    sketches = [note.sketch for note in notes if len(note.sketch)]
    data = io.BytesIO()
    np.savez(
        data,
        content=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32),
        group=np.frombuffer(b"".join(groups), np.uint8).reshape(-1, 32),
        key=np.frombuffer(b"".join(note.key for note in notes), np.uint8).reshape(-1, 16),
        sketch=np.array(sketches, np.uint32).reshape(-1, duplicates.PERMUTATIONS),
        contaminated=np.array([note.contaminated for note in notes], np.str_),
        filtered=np.array(filtered, np.str_),
        skipped=np.array(to_json(skipped)),
        redacted=np.array(to_json(redacted)),
        unused=np.array(to_json(unused)),
        changes=np.array(to_json(changes)),
        digest=np.array(digest.hexdigest()),
    )
    write_atomically(path, data.getvalue())
    return number


def _runs(job: PrepareJob) -> dict[bytes, str]:
    """The runs of words of the evaluation sets of `data.decontaminate`."""
    sets = to_json(settings_of(job)["decontaminate"])
    return _cached_runs(sets, job.config.tfds_dir, job.config.max_record_bytes)


@functools.lru_cache(maxsize=1)
def _cached_runs(sets: str, tfds_dir: str, max_record_bytes: int) -> dict[bytes, str]:
    return duplicates.evaluation_runs(json.loads(sets), tfds_dir, max_record_bytes)


def decide(job: PrepareJob) -> None:
    """Decides for each document whether it is trained on, held out, or left out and why, as
    data/splits.py's `read_examples` does with all documents in one list."""
    read_decisions.cache_clear()  # of an earlier folder of this name
    path = job.work / "decisions.json"
    if path.exists():
        return
    config, parts = job.config, read_plan(job.folder)["parts"]
    surveys, counters = [], {name: Counter() for name in COUNTERS}
    for number in range(len(parts)):
        notes_path = _notes_path(job, number)
        with np.load(io.BytesIO(notes_path.read_bytes()), allow_pickle=False) as arrays:
            surveys.append({name: arrays[name] for name in arrays.files})
        for name, counter in counters.items():
            text = str(surveys[-1].get(name, "{}"))
            counter.update(json_files.parse(text, f"{notes_path}: {name}", dict[str, int]))
    check_bad(counters["skipped"], config)
    heldout = np.concatenate(
        [np.full(len(s["content"]), is_heldout) for s, (_, _, is_heldout) in zip(surveys, parts)]
    )
    content = [row.tobytes() for arrays in surveys for row in arrays["content"]]
    reasons = np.concatenate([arrays["filtered"] for arrays in surveys]).astype(object)
    notes = _notes(surveys) if config.dedup or config.decontaminate else []
    if not config.heldout_source:
        copies = duplicates.copy_groups(content, notes, config.dedup)
        groups = [row.tobytes() for arrays in surveys for row in arrays.get("group", ())] or copies
        keys = heldout_keys(groups, config.heldout_fraction, heldout_by=config.heldout_by)
        heldout = np.array([key in keys for key in groups], bool)
        held_copies = {copies[i] for i in np.flatnonzero(heldout)}
        for i in np.flatnonzero(~heldout):
            if copies[i] in held_copies:
                reasons[i] = COPY
    part, count = config.subset_part()
    numbers: dict[bytes, int] = {}
    for i in np.flatnonzero(~heldout & (reasons != COPY)).tolist():
        if numbers.setdefault(content[i], len(numbers)) % count != part:
            reasons[i] = "of another subset"
    remaining = np.flatnonzero(~heldout & (reasons == "")).tolist()
    if config.dedup or config.decontaminate:
        heldout_notes = [notes[i] for i in np.flatnonzero(heldout)] if config.heldout_source else ()
        reasons[remaining] = duplicates.decide(
            [notes[i] for i in remaining], config.dedup, heldout_notes
        )
    reasons[heldout] = "heldout"
    if not np.any(reasons == ""):
        raise DataError(f"nothing is left to train on: {dict(Counter(reasons.tolist()))}")
    ends = np.cumsum([len(arrays["content"]) for arrays in surveys])[:-1]
    decisions = counters | {
        "reasons": [part.tolist() for part in np.split(reasons, ends)],
        "digests": [str(arrays["digest"]) for arrays in surveys],
    }
    write_atomically(path, json.dumps(decisions))


def check_bad(bad: Counter, config: DataConfig) -> None:
    """Raises DataError if there are more bad records than `max_bad` in all."""
    if bad.total() > config.max_bad:
        raise DataError(
            f"{bad.total()} bad records in all ({dict(bad)}), and max_bad is {config.max_bad}; "
            "fix the data, or raise it"
        )


def _notes(surveys: list[dict[str, np.ndarray]]) -> list[duplicates.Note]:
    """The notes on all documents."""
    key, sketch, contaminated = (
        np.concatenate([arrays[name] for arrays in surveys])
        for name in ("key", "sketch", "contaminated")
    )
    return [
        duplicates.Note(
            key[i].tobytes(),
            sketch[i] if len(sketch) else duplicates.NO_SKETCH,
            str(contaminated[i]),
        )
        for i in range(len(key))
    ]


@functools.lru_cache(maxsize=1)
def read_decisions(folder: str) -> Decisions:
    """The decisions of a folder."""
    return json_files.read(epath.Path(folder) / UNFINISHED / "decisions.json", Decisions)
