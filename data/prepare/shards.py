"""Writing the shards of a corpus, and its manifest.

`write_shards` packs the chosen documents of one part: its result depends on that part and its
decisions alone. It writes atomically, and does nothing if its result exists.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections import Counter
from typing import Any, TypedDict

import numpy as np
from array_record.python import array_record_module
from etils import epath

from data.atomic import is_remote, write_atomically
from data.errors import DataError
from data.packing.base import NothingLeft, Packed
from data.packing.chats import pack_chats
from data.packing.origins import Origins
from data.packing.text import pack_text
from data.passages.grounding import open_grounder
from data.prepare import row_format
from data.prepare.manifest import EXAMPLES, FORMAT, HELDOUT, MANIFEST, Shard
from data.prepare.plan import (
    PrepareJob,
    examples_of,
    load_tokenizer,
    read_plan,
    source_changed,
    to_json,
)
from data.prepare.survey import check_bad, read_decisions
from data.read import json_files
from data.read.bad_records import BadRecords
from data.text.base import Tokenizer

KEPT_EXAMPLES = 64  # held-out documents that are kept as text
SHARD_OPTIONS = "group_size:1,zstd:1"  # a record a chunk, so that each is read alone


class Written(TypedDict):
    """The result of writing one part: a shard for each split (None without rows), some held-out
    examples, and counters."""

    train: Shard | None
    heldout: Shard | None
    examples: list[dict]
    skipped: dict[str, int]
    bad: dict[str, int]


def _written_path(job: PrepareJob, number: int) -> epath.Path:
    return job.work / f"facts-{number:05}.json"


def write_shards(job: PrepareJob, number: int) -> int:
    """Writes the rows of one part; returns its number."""
    path = _written_path(job, number)
    if path.exists():
        return number
    tokenizer, decisions = load_tokenizer(job.folder), read_decisions(job.folder)
    reasons, digest = decisions["reasons"], hashlib.sha256()
    skipped, splits = Counter(), {"train": [], "heldout": []}
    bad = BadRecords(job.config.on_bad, job.config.max_bad)
    for example, reason in itertools.zip_longest(examples_of(job, number), reasons[number]):
        digest.update(to_json(example).encode())
        if example is not None and reason in ("", "heldout"):
            example.pop("group", None)
            splits[reason or "train"].append(example)
    if digest.hexdigest() != decisions["digests"][number]:
        raise source_changed(job, read_plan(job.folder)["parts"][number][0])
    written: dict[str, Any] = {}
    for split, examples in splits.items():
        packed = _pack(job, examples, tokenizer, skipped, bad, split == "train")
        name = f"{split}-{number:05}-of-{len(reasons):05}.array_record"
        written[split] = _write_shard(job, name, packed, tokenizer) if packed.rows else None
        written["examples"] = packed.examples[:KEPT_EXAMPLES]  # of the last split: held-out ones
    written |= {"skipped": skipped, "bad": bad.skipped}
    write_atomically(path, to_json(written))
    return number


def _pack(
    job: PrepareJob, examples, tokenizer: Tokenizer, skipped: Counter, bad: BadRecords,
    training: bool,
) -> Packed:  # fmt: skip
    """Packed examples; no rows where there are no examples, or all are left out."""
    if not examples:
        return Packed({}, [], [])
    config = job.config
    try:
        if grounder := open_grounder(config, job.schema, tokenizer):
            examples = list(grounder.ground(examples, skipped, bad))
        if job.schema == "text":
            change = config.text_change(training)
            return pack_text(examples, tokenizer, config.length, change, skipped, bad)
        return pack_chats(
            examples, tokenizer, config.length, config.on_long, config.pack, skipped, bad
        )
    except NothingLeft:
        return Packed({}, [], [])


def _write_shard(job: PrepareJob, name: str, packed: Packed, tokenizer: Tokenizer) -> Shard:
    rows, counts = packed.rows, Origins.of(packed).example_counts()
    dtype = row_format.token_dtype(tokenizer.vocab_size)
    with_mask = row_format.has_mask(job.schema, job.config.fim_rate)
    path, count = epath.Path(job.folder) / name, len(rows["tokens"])
    remote = is_remote(job.folder)
    write_atomically(path.parent / f"{EXAMPLES}{name}", counts.astype("<u4").tobytes())
    with tempfile.TemporaryDirectory(dir=None if remote else job.work) as folder:
        local = os.path.join(folder, name)
        writer = array_record_module.ArrayRecordWriter(local, SHARD_OPTIONS)
        for i in range(count):
            row = {key: values[i] for key, values in rows.items()}
            writer.write(row_format.encode(row, dtype, with_mask))
        writer.close()
        content = epath.Path(local).read_bytes()
        if remote:
            epath.Path(local).copy(path, overwrite=True)
        else:
            os.replace(local, path)
    tokens = int(np.sum(rows["segment_ids"] > 0))
    return {"file": name, "rows": count, "tokens": tokens, "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip


def finish(job: PrepareJob) -> dict:
    """Writes the held-out examples and the manifest, removes the intermediate files, and returns
    the manifest."""
    plan, decisions = read_plan(job.folder), read_decisions(job.folder)
    tokenizer = load_tokenizer(job.folder)
    results = [
        json_files.read(_written_path(job, number), Written) for number in range(len(plan["parts"]))
    ]
    reasons = Counter(reason or "train" for part in decisions["reasons"] for reason in part)
    skipped, bad = Counter(), Counter(decisions["skipped"])
    for written in results:
        skipped.update(written["skipped"])
        bad.update(written["bad"])
    check_bad(bad, job.config)
    skipped.update(bad)
    splits = {s: [written[s] for written in results if written[s]] for s in ("train", "heldout")}
    rows = sum(shard["rows"] for shard in splits["train"])
    if not rows:
        raise DataError(f"nothing is left to train on: {dict(skipped)}")
    tokens = sum(shard["tokens"] for shard in splits["train"])
    manifest = {
        "format": FORMAT,
        "schema": job.schema,
        "length": job.config.length,
        "token_dtype": row_format.token_dtype(tokenizer.vocab_size).str,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "settings": plan["settings"],
        "sources": plan["sources"],
        "documents": dict(sorted(reasons.items())),
        "skipped": dict(sorted(skipped.items())),
        "redacted": dict(sorted(decisions["redacted"].items())),
        "unused": dict(sorted(decisions["unused"].items())),
        "changes": dict(sorted(decisions.get("changes", {}).items())),
        "packing": {
            "method": "best fit" if job.schema == "chat" and job.config.pack else
            "concatenate and split" if job.schema == "text" else "none",
            "rows": rows,
            "tokens": tokens,
            "efficiency": tokens / max(rows * job.config.length, 1),
        },
        "splits": splits,
    }  # fmt: skip
    examples = [example for written in results for example in written["examples"]][:KEPT_EXAMPLES]
    lines = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    write_atomically(epath.Path(job.folder) / HELDOUT, lines)
    write_atomically(epath.Path(job.folder) / MANIFEST, to_json(manifest))
    remove_intermediate(job)
    return manifest


def remove_intermediate(job: PrepareJob) -> None:
    """Removes intermediate files, and temporary files that a killed process left."""
    if job.work.exists():
        job.work.rmtree()
    for stray in epath.Path(job.folder).glob("*.tmp"):
        stray.unlink()
