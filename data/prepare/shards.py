"""What preparing a corpus does to one part of it, and what joins the parts (prepare.py).

Every input file, or part of a large one, is read twice. `survey` notes what each document is,
`decide` compares the notes of all, and `write` makes a shard of the documents that stay: a function
of its part and its decisions alone. Each leaves its result in a file, whole or not at all, and does
nothing where that is there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import tempfile
from collections import Counter
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module
from etils import epath

from data import packing
from data.atomic import is_remote, write_atomically
from data.bad_records import BadRecords
from data.clean import duplicates, filters, redact
from data.errors import DataError
from data.pipeline import DataConfig
from data.prepare import prepared
from data.read import json_files, sources
from data.read.reading import Span
from data.text import tokenizer as tokenizers

# Of a sample that a tokenizer is made of, and held-out documents kept to be written on.
SAMPLE_CHARACTERS, KEPT_EXAMPLES = 50_000_000, 64
SHARD_OPTIONS = "group_size:1,zstd:1"  # a record a chunk: each is read alone
UNFINISHED = "unfinished"
# Settings that the rows depend on, and that a run may not have otherwise.
SETTINGS = (
    "source", "heldout_source", "heldout_fraction", "fields", "documents", "on_bad",
    "max_record_bytes", "subset", "filters", "redact", "dedup", "decontaminate", "length",
    "on_long", "pack", "truncate", "fim_rate", "fim_spm",
)  # fmt: skip


class Job(NamedTuple):
    """Attributes: schema: `text` or `chat`. folder: where everything goes."""

    config: DataConfig
    schema: str
    folder: str

    @property
    def work(self):
        return epath.Path(self.folder) / UNFINISHED


def _json(value) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


# The plan.


def settings_of(job: Job) -> dict:
    """What of the recipe the rows depend on, as JSON has it."""
    given = dataclasses.asdict(job.config)
    return json.loads(json.dumps({name: given[name] for name in SETTINGS} | {"schema": job.schema}))


def make_plan(job: Job) -> int:
    """Divides the sources into parts, or takes up the plan that is there; returns how many.

    Raises:
      DataError: the folder holds rows, or half of them, of other settings.
    """
    for kept in (_plan, _decisions, _tokenizer):  # of a folder of this name before
        kept.cache_clear()
    folder = epath.Path(job.folder)
    path = job.work / "plan.json"
    if not path.exists():
        if folder.exists() and any(entry != job.work for entry in folder.iterdir()):
            raise DataError(f"{job.folder} is not empty; name a new folder for --output")
        found = _sources(job)
        parts = [(part.name, span, aside) for part, aside in found for span in part.spans()]
        sizes = [{"name": part.name, "bytes": _size(part.name)} for part, _ in found]
        job.work.mkdir(parents=True, exist_ok=True)
        plan = {"settings": settings_of(job), "sources": sizes, "parts": parts}
        write_atomically(path, _json(plan))
    plan = json_files.read(path)
    same(job, plan["settings"])
    unchanged(job, plan["sources"])
    return len(plan["parts"])


def _sources(job: Job) -> list[tuple[sources.Part, bool]]:
    """The files and data sets to read, and whether they are held out."""
    config = job.config
    return [
        (part, aside)
        for source, aside in ((config.source, False), (config.heldout_source, True))
        if source
        for part in sources.parts_of(source, job.schema, config.documents, config.tfds_dir)
    ]


def _size(name: str) -> int | None:
    """Of a file, in bytes."""
    path = epath.Path(name)
    return None if name.startswith("tfds:") or path.is_dir() else path.stat().length


def same(job: Job, settings: dict) -> None:
    now = settings_of(job)
    changed = [name for name in now if settings.get(name) != now[name]]
    if changed:
        raise DataError(
            f"{job.folder} was begun with another data.{', data.'.join(changed)}; go on with the "
            "settings of then, or name a new folder for --output"
        )


def unchanged(job: Job, recorded: list[dict]) -> None:
    """Raises DataError where the sources, if they are still there, are other files or of other
    sizes than `recorded`. (`write` compares what is in them.)"""
    try:
        now = {part.name: _size(part.name) for part, _ in _sources(job)}
    except DataError:
        return
    then = {entry["name"]: entry["bytes"] for entry in recorded}
    for name in then | now:
        if then.get(name, 0) != now.get(name, 0):
            raise _changed(job, name)


def _changed(job: Job, name: str) -> DataError:
    return DataError(
        f"{name} has changed since {job.folder} was begun; put it back, or name a new folder for "
        "--output"
    )


@functools.lru_cache(maxsize=2)
def _plan(folder: str) -> dict:
    return json_files.read(epath.Path(folder) / UNFINISHED / "plan.json")


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: str):
    return tokenizers.load(folder)


def _examples(job: Job, number: int, skipped=None, redacted=None, unused=None):
    """Documents of one part, in order; the same each time. Counters: of sources.py's `iterate`
    and data/clean/redact.py."""
    redacted = Counter() if redacted is None else redacted
    name, span, _ = _plan(job.folder)["parts"][number]
    config = job.config
    examples = sources.iterate(
        name, job.schema, fields=config.fields, documents=config.documents,
        tfds_dir=config.tfds_dir, on_bad=config.on_bad, max_bad=config.max_bad,
        max_record_bytes=config.max_record_bytes, skipped=skipped, unused=unused,
        span=Span(*span) if span else None,
    )  # fmt: skip
    return (redact.redact(example, config.redact, redacted) for example in examples)


def make_tokenizer(job: Job, kind: str, vocab_size: int, path: str, fim: bool = False) -> None:
    """Keeps the tokenizer of `path` in the folder, or one made of a sample of every part."""
    if (epath.Path(job.folder) / "tokenizer/tokenizer.json").exists():
        return
    if path:
        tokenizer = tokenizers.load(path)
    else:
        parts = [k for k, part in enumerate(_plan(job.folder)["parts"]) if not part[2]]
        texts = []
        for number in parts:
            left = SAMPLE_CHARACTERS // len(parts)
            for example in _examples(job, number):
                texts.append(duplicates.text_of(example))
                left -= len(texts[-1])
                if left < 0:
                    break
        tokenizer = tokenizers.train(kind, texts, vocab_size, fim)
    tokenizer.save(epath.Path(job.folder) / "tokenizer")


# The three steps.


def survey(job: Job, number: int) -> int:
    """Writes notes on the documents of one part; returns its number."""
    out = job.work / f"survey-{number:05}.npz"
    if out.exists():
        return number
    config, skipped, notes, keys, filtered = job.config, Counter(), [], [], []
    runs, redacted, unused = _runs(job), Counter(), Counter()
    digest = hashlib.sha256()
    for example in _examples(job, number, skipped, redacted, unused):
        digest.update(_json(example).encode())
        keys.append(sources.content_key(example))
        failed = Counter()
        filters.apply([example], config.filters, failed)
        filtered.append(next(iter(failed), ""))
        if config.dedup or runs:
            notes.append(duplicates.note(example, config.dedup, runs))
    sketches = [note.sketch for note in notes if note.sketch is not None]
    data = io.BytesIO()
    np.savez(
        data,
        content=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32),
        key=np.frombuffer(b"".join(note.key for note in notes), np.uint8).reshape(-1, 16),
        sketch=np.array(sketches, np.uint32).reshape(-1, duplicates.PERMUTATIONS),
        contaminated=np.array([note.contaminated for note in notes], np.str_),
        filtered=np.array(filtered, np.str_),
        skipped=np.array(_json(skipped)),
        redacted=np.array(_json(redacted)),
        unused=np.array(_json(unused)),
        digest=np.array(digest.hexdigest()),
    )
    write_atomically(out, data.getvalue())
    return number


def _runs(job: Job):
    sets = _json(settings_of(job)["decontaminate"])
    return _evaluation_runs(sets, job.config.tfds_dir, job.config.max_record_bytes)


@functools.lru_cache(maxsize=1)
def _evaluation_runs(sets: str, tfds_dir: str, max_record_bytes: int):
    return duplicates.evaluation_runs(json.loads(sets), tfds_dir, max_record_bytes)


def decide(job: Job) -> None:
    """Says of every document whether it is trained on, held out, or why neither, as
    data/pipeline.py's `read_examples` would of all in one list."""
    out = job.work / "decisions.json"
    if out.exists():
        return
    config, parts = job.config, _plan(job.folder)["parts"]
    found = []
    for number in range(len(parts)):
        with np.load(io.BytesIO((job.work / f"survey-{number:05}.npz").read_bytes())) as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    skipped, redacted, unused = (
        sum((Counter(json.loads(str(notes[name]))) for notes in found), Counter())
        for name in ("skipped", "redacted", "unused")
    )
    _check_bad(skipped, config)
    aside = np.concatenate([np.full(len(n["content"]), p[2]) for n, p in zip(found, parts)])
    content = [row.tobytes() for notes in found for row in notes["content"]]
    reasons = np.concatenate([notes["filtered"] for notes in found]).astype(object)
    notes = _notes(found) if config.dedup or config.decontaminate else []
    if not config.heldout_source:
        groups = duplicates.copy_groups(content, notes, config.dedup)
        lowest = sources.heldout_keys(groups, config.heldout_fraction)
        aside = np.array([key in lowest for key in groups], bool)
    part, count = config.subset_part()
    numbers: dict[bytes, int] = {}
    for i in np.flatnonzero(~aside).tolist():
        if numbers.setdefault(content[i], len(numbers)) % count != part:
            reasons[i] = "of another subset"
    left = np.flatnonzero(~aside & (reasons == "")).tolist()
    if config.dedup or config.decontaminate:
        heldout = [notes[i] for i in np.flatnonzero(aside)] if config.heldout_source else ()
        reasons[left] = duplicates.decide([notes[i] for i in left], config.dedup, heldout)
    reasons[aside] = "heldout"
    if not np.any(reasons == ""):
        raise DataError(f"nothing is left to train on: {dict(Counter(reasons.tolist()))}")
    ends = np.cumsum([len(notes["content"]) for notes in found])[:-1]
    lists = [part.tolist() for part in np.split(reasons, ends)]
    decisions = {
        "skipped": skipped,
        "redacted": redacted,
        "unused": unused,
        "reasons": lists,
        "digests": [str(notes["digest"]) for notes in found],
    }
    write_atomically(out, json.dumps(decisions))


def _check_bad(bad: Counter, config: DataConfig) -> None:
    if bad.total() > config.max_bad:
        raise DataError(
            f"{bad.total()} bad records in all ({dict(bad)}), and max_bad is {config.max_bad}; "
            "mend the data, or raise it"
        )


def _notes(found) -> list[duplicates.Note]:
    """Of all documents, as `survey` kept them."""
    key, sketch, contaminated = (
        np.concatenate([notes[name] for notes in found])
        for name in ("key", "sketch", "contaminated")
    )
    return [
        duplicates.Note(key[i].tobytes(), sketch[i] if len(sketch) else None, str(contaminated[i]))
        for i in range(len(key))
    ]


@functools.lru_cache(maxsize=1)
def _decisions(folder: str) -> dict:
    return json_files.read(epath.Path(folder) / UNFINISHED / "decisions.json")


def write(job: Job, number: int) -> int:
    """Writes the rows of one part; returns its number."""
    facts_path = job.work / f"facts-{number:05}.json"
    if facts_path.exists():
        return number
    tokenizer, decisions = _tokenizer(job.folder), _decisions(job.folder)
    reasons, digest = decisions["reasons"], hashlib.sha256()
    skipped, splits = Counter(), {"train": [], "heldout": []}
    bad = BadRecords(job.config.on_bad, job.config.max_bad)
    for example, reason in itertools.zip_longest(_examples(job, number), reasons[number]):
        digest.update(_json(example).encode())
        if reason in ("", "heldout"):
            splits[reason or "train"].append(example)
    if digest.hexdigest() != decisions["digests"][number]:
        raise _changed(job, _plan(job.folder)["parts"][number][0])
    facts = {}
    for split, examples in splits.items():
        rows, kept, _ = _rows(job, examples, tokenizer, skipped, bad, split == "train")
        name = f"{split}-{number:05}-of-{len(reasons):05}.array_record"
        facts[split] = _write_shard(job, name, rows, tokenizer) if rows else None
        facts["examples"] = kept[:KEPT_EXAMPLES]  # in the end those held out
    facts |= {"skipped": skipped, "bad": bad.skipped}
    write_atomically(facts_path, _json(facts))
    return number


def _rows(job: Job, examples, tokenizer, skipped: Counter, bad: BadRecords, training: bool):
    """Packed; no rows where there is no example, or all are left out."""
    if not examples:
        return packing.Packed(None, [], [])
    config = job.config
    try:
        if job.schema == "text":
            change = config.text_change(training)
            return packing.pack_text(examples, tokenizer, config.length, change, skipped, bad)
        return packing.pack_chats(
            examples, tokenizer, config.length, config.on_long, config.pack, skipped, bad
        )
    except packing.NothingLeft:
        return packing.Packed(None, [], [])


def _write_shard(job: Job, name: str, rows, tokenizer) -> dict:
    dtype = prepared.token_dtype(tokenizer.vocab_size)
    with_mask = prepared.with_mask(job.schema, job.config.fim_rate)
    path, count = epath.Path(job.folder) / name, len(rows["tokens"])
    remote = is_remote(job.folder)
    with tempfile.TemporaryDirectory(dir=None if remote else job.work) as folder:
        local = os.path.join(folder, name)
        writer = array_record_module.ArrayRecordWriter(local, SHARD_OPTIONS)
        for i in range(count):
            row = {key: values[i] for key, values in rows.items()}
            writer.write(prepared.encode(row, dtype, with_mask))
        writer.close()
        content = epath.Path(local).read_bytes()
        if remote:
            epath.Path(local).copy(path, overwrite=True)
        else:
            os.replace(local, path)
    tokens = int(np.sum(rows["segment_ids"] > 0))
    return {"file": name, "rows": count, "tokens": tokens, "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip


def finish(job: Job) -> dict:
    """Writes held-out examples and the manifest, and cleans up."""
    plan, decisions = _plan(job.folder), _decisions(job.folder)
    tokenizer = _tokenizer(job.folder)
    facts = [
        json_files.read(job.work / f"facts-{number:05}.json")
        for number in range(len(plan["parts"]))
    ]
    reasons = Counter(reason or "train" for part in decisions["reasons"] for reason in part)
    skipped, bad = Counter(), Counter(decisions["skipped"])
    for fact in facts:
        skipped.update(fact["skipped"])
        bad.update(fact["bad"])
    _check_bad(bad, job.config)
    skipped.update(bad)
    splits = {s: [f[s] for f in facts if f[s]] for s in ("train", "heldout")}
    rows = sum(shard["rows"] for shard in splits["train"])
    if not rows:
        raise DataError(f"nothing is left to train on: {dict(skipped)}")
    tokens = sum(shard["tokens"] for shard in splits["train"])
    manifest = {
        "format": prepared.FORMAT,
        "schema": job.schema,
        "length": job.config.length,
        "token_dtype": prepared.token_dtype(tokenizer.vocab_size).str,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "settings": plan["settings"],
        "sources": plan["sources"],
        "documents": dict(sorted(reasons.items())),
        "skipped": dict(sorted(skipped.items())),
        "redacted": dict(sorted(decisions["redacted"].items())),
        "unused": dict(sorted(decisions["unused"].items())),
        "packing": {
            "method": "best fit" if job.schema == "chat" and job.config.pack else
            "concatenate and split" if job.schema == "text" else "none",
            "rows": rows,
            "tokens": tokens,
            "efficiency": tokens / max(rows * job.config.length, 1),
        },
        "splits": splits,
    }  # fmt: skip
    examples = [example for fact in facts for example in fact["examples"]][:KEPT_EXAMPLES]
    lines = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    write_atomically(epath.Path(job.folder) / prepared.HELDOUT, lines)
    write_atomically(epath.Path(job.folder) / prepared.MANIFEST, _json(manifest))
    clean(job)
    return manifest


def clean(job: Job) -> None:
    """Removes what was in between, and what a kill left half written."""
    if job.work.exists():
        job.work.rmtree()
    for stray in epath.Path(job.folder).glob("*.tmp"):
        stray.unlink()
