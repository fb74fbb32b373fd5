"""The plan of preparing a corpus: its settings, its parts, and its tokenizer.

A part is an input file, a span of a large one, or a span of a data set by name.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

from etils import epath

import plugins
import registry
from data.atomic import write_atomically
from data.clean import redact
from data.config import DataConfig
from data.errors import DataError
from data.passages import documents
from data.passages.config import PassagesConfig
from data.read import json_files, sources
from data.read.readers import READERS, named_reader
from data.read.reading import Span
from data.schemas.examples import example_text
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer

SAMPLE_CHARACTERS = 50_000_000  # of the sample that a tokenizer is trained on
UNFINISHED = "unfinished"  # the folder of intermediate files
# The settings that the rows depend on; a run that uses the rows may not set others.
SETTINGS = (
    "source", "records", "transforms", "heldout_source", "heldout_by", "heldout_fraction",
    "fields", "documents", "on_bad", "max_record_bytes", "subset", "filters", "redact",
    "redact_model", "dedup", "decontaminate", "length", "on_long", "pack", "truncate", "fim_rate",
    "fim_spm", "passages",
)  # fmt: skip


class PrepareJob(NamedTuple):
    """A corpus to prepare. `schema`: `text` or `chat`. `folder`: where the result is written."""

    config: DataConfig
    schema: str
    folder: str

    @property
    def work(self) -> epath.Path:
        """The folder of intermediate files."""
        return epath.Path(self.folder) / UNFINISHED

    def __reduce__(self):
        """In another process, plugins are imported before the settings are made."""
        values = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config)}
        values["passages"] = self.config.passages.values()
        return _unpickled, (plugins.loaded(), values, self.schema, self.folder)


def _unpickled(names: tuple[str, ...], values: dict, schema: str, folder: str) -> PrepareJob:
    plugins.load(names)
    passages = registry.current(PassagesConfig)(**values["passages"])
    config = registry.current(DataConfig)(**values | {"passages": passages})
    return PrepareJob(config, schema, folder)


class Plan(TypedDict):
    """The content of plan.json. `sources`: {"name", "bytes"} of each input. `parts`: (name of the
    input, span or None, whether it is held out)."""

    settings: dict[str, Any]
    sources: list[dict[str, Any]]
    parts: list[tuple[str, list[int] | None, bool]]


def to_json(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def settings_of(job: PrepareJob) -> dict:
    """The settings that the rows depend on, as JSON values."""
    values = dataclasses.asdict(job.config)
    names = (*SETTINGS, *READERS.fields())
    settings = {name: values[name] for name in names} | {"schema": job.schema}
    return json.loads(json.dumps(settings))


def make_plan(job: PrepareJob) -> int:
    """Divides the sources into parts, or resumes the existing plan; returns the number of parts.

    Raises:
      DataError: the folder holds rows, finished or not, made with other settings.
    """
    read_plan.cache_clear()  # of an earlier folder of this name
    load_tokenizer.cache_clear()
    folder = epath.Path(job.folder)
    path = job.work / "plan.json"
    if not path.exists():
        if folder.exists() and any(entry != job.work for entry in folder.iterdir()):
            raise DataError(f"{job.folder} is not empty; name a new folder for --output")
        inputs = _inputs(job)
        parts = [
            (item.name, span, is_heldout) for item, is_heldout in inputs for span in item.spans()
        ]
        sizes = [{"name": name, "bytes": _size(name)} for name in _read(job, inputs)]
        job.work.mkdir(parents=True, exist_ok=True)
        plan = {"settings": settings_of(job), "sources": sizes, "parts": parts}
        write_atomically(path, to_json(plan))
    plan = json_files.read(path, Plan)
    check_settings(job, plan["settings"])
    check_sources(job, plan["sources"])
    return len(plan["parts"])


def _read(job: PrepareJob, inputs: list[tuple[sources.Input, bool]]) -> list[str]:
    """The names of all that is read: the inputs, and the files of passages."""
    names = [item.name for item, _ in inputs]
    if source := job.config.passages.source:
        files = tuple(documents.files_of(source))
        passages = sources.inputs_of(files, "text", "file", job.config.tfds_dir)
        names += [item.name for item in passages if item.name not in names]
    return names


def _inputs(job: PrepareJob) -> list[tuple[sources.Input, bool]]:
    """The files and data sets to read, and whether each is held out."""
    config = job.config
    return [
        (item, is_heldout)
        for source, is_heldout in ((config.source, False), (config.heldout_source, True))
        if source
        for item in sources.inputs_of(source, job.schema, config.documents, config.tfds_dir)
    ]


def _size(name: str) -> int | None:
    """The size of an input file in bytes; None for a folder or a data set by name."""
    path = epath.Path(name)
    return None if named_reader(name) or path.is_dir() else path.stat().length


def check_settings(job: PrepareJob, settings: dict) -> None:
    """Raises DataError if the folder was begun with other settings."""
    now = settings_of(job)
    default = settings_of(job._replace(config=registry.current(DataConfig)(source=UNFINISHED)))
    # A setting that was not there when the folder was begun had its default.
    changed = [name for name in now if settings.get(name, default[name]) != now[name]]
    if changed:
        raise DataError(
            f"{job.folder} was begun with another data.{', data.'.join(changed)}; use the same "
            "settings to resume it, or name a new folder for --output"
        )


def check_sources(job: PrepareJob, recorded: list[dict]) -> None:
    """Raises DataError if the sources still exist and are other files, or of other sizes, than
    `recorded`. (`write_shards` compares their content.)"""
    try:
        now = {name: _size(name) for name in _read(job, _inputs(job))}
    except DataError:
        return
    then = {entry["name"]: entry["bytes"] for entry in recorded}
    for name in then | now:
        if then.get(name, 0) != now.get(name, 0):
            raise source_changed(job, name)


def source_changed(job: PrepareJob, name: str) -> DataError:
    return DataError(
        f"{name} has changed since {job.folder} was begun; restore it, or name a new folder for "
        "--output"
    )


@functools.lru_cache(maxsize=2)
def read_plan(folder: str) -> Plan:
    """The plan of a folder."""
    return json_files.read(epath.Path(folder) / UNFINISHED / "plan.json", Plan)


@functools.lru_cache(maxsize=2)
def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a folder."""
    return tokenizers.load(folder)


def examples_of(
    job: PrepareJob, number: int, skipped: Counter | None = None, redacted: Counter | None = None,
    unused: Counter | None = None, changes: Counter | None = None,
) -> Iterator[dict]:  # fmt: skip
    """The examples of one part, in the same order every time. Counters: as of
    data/read/sources.py's `iterate` and data/clean/redact.py."""
    redacted = Counter() if redacted is None else redacted
    name, span, _ = read_plan(job.folder)["parts"][number]
    config = job.config
    examples = sources.iterate(
        name, job.schema, fields=config.fields, records=config.records,
        transforms=config.transforms, heldout_by=config.heldout_by, documents=config.documents,
        tfds_dir=config.tfds_dir, on_bad=config.on_bad, max_bad=config.max_bad,
        max_record_bytes=config.max_record_bytes, skipped=skipped, unused=unused,
        changes=changes, span=Span(*span) if span else None, settings=config,
    )  # fmt: skip
    return (
        redact.redact(example, config.redact, redacted, config.redact_model) for example in examples
    )


def make_tokenizer(job: PrepareJob, kind: str, vocab_size: int, path: str, fim: bool) -> None:
    """Saves a tokenizer in the folder: that of `path`, or one trained on a sample of every part."""
    if (epath.Path(job.folder) / "tokenizer/tokenizer.json").exists():
        return
    if path:
        tokenizer = tokenizers.load(path)
    else:
        parts = read_plan(job.folder)["parts"]
        numbers = [n for n, (_, _, is_heldout) in enumerate(parts) if not is_heldout]
        texts = []
        for number in numbers:
            remaining = SAMPLE_CHARACTERS // len(numbers)
            for example in examples_of(job, number):
                texts.append(example_text(example))
                remaining -= len(texts[-1])
                if remaining < 0:
                    break
        tokenizer = tokenizers.train(kind, texts, vocab_size, fim)
    tokenizer.save(epath.Path(job.folder) / "tokenizer")
