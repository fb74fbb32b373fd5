"""Rows of small data, kept in a workdir, so that a start reads and tokenizes only what is new.

One file, whole or not there: a check sum, then a zip of arrays and of what is known beside them,
under a hash of all that decides the rows: settings, tokenizer, the code of data/ and of the
tokenizers' libraries, and name, size and times of every file that is read: when it was written, and
when anything about it changed, which nobody can set back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from etils import epath

from data import pipeline
from data.atomic import is_remote, write_atomically
from data.errors import DataError
from data.pipeline import Data, DataConfig
from data.read import sources

LIBRARIES = ("sentencepiece", "tokenizers", "jinja2", "tensorflow-datasets")
FREE = ("batch_size",)  # asked for when there are rows
FACTS = "facts.json"
LARGEST = 1 << 30  # bytes of rows in memory that are kept


def open_data(
    path, config: DataConfig, schema: str, tokenizer, examples: Callable, prompt_length: int = 0,
    say: Callable = lambda text: None,
) -> tuple[Data, Callable]:  # fmt: skip
    """(data as of `pipeline.open_data`, from the file `path` where that holds it; () -> None, which
    keeps it there if it was made anew). Prepared rows are not copied, nor many.

    Args:
      examples: () -> those of both splits, asked for where there is something to do.
      say: told what was found.
    """
    path, kept, found = epath.Path(path), not any(config.prepared()), ""
    if kept:
        key = _key(config, schema, tokenizer, prompt_length)
        found = _read(path, key) if path.exists() else ""
    if isinstance(found, Data):
        say(f"  rows as kept in {path}")
        return found, lambda: None
    if found:
        say(f"  {path} {found}: the data is read anew")
    data = pipeline.open_data(config, schema, tokenizer, examples(), prompt_length)
    if kept:
        size = sum(v.nbytes for rows in (data.train, data.heldout) for v in rows.values())
        kept = size <= LARGEST
        if not kept:
            size = f"{size / 2**30:.1f} GiB"
            say(f"  {size} of rows are made anew at every start: see python -m data.prepare")

    def keep():
        # A data set of TFDS may have been downloaded meanwhile.
        if kept and (now := key or _key(config, schema, tokenizer, prompt_length)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _packed(data, now))

    return data, keep


# What decides the rows.


def _key(config: DataConfig, schema: str, tokenizer, prompt_length: int) -> str:
    """Of the rows; "" where a source is not there yet, or cannot be told apart from another."""
    named = [(source.source, schema) for source in config.sources().values()]
    named += [(config.heldout_source, schema)] if config.heldout_source else []
    named += [(given["source"], "text") for given in config.decontaminate.values()]
    try:
        read = [
            _identity(part.name, config.tfds_dir)
            for source, read_as in named
            for part in sources.parts_of(source, read_as, config.documents, config.tfds_dir)
        ]
    except (DataError, OSError):
        return ""  # reading says what is wrong
    if not all(read):
        return ""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE}
    decides = [settings, schema, prompt_length, tokenizer.fingerprint, read, _code()]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _identity(name: str, tfds_dir: str) -> list:
    """[file, size, times of change] of each file of a source; nothing where there is none."""
    path = epath.Path(name)
    if name.startswith("tfds:"):
        data_set = name.removeprefix("tfds:").partition(":")[0].partition("/")[0]
        if not tfds_dir:
            return []  # TFDS knows where
        path = epath.Path(os.path.expanduser(tfds_dir)) / data_set
    found = list(_inside(path)) if path.exists() else []
    if is_remote(name):
        return [[os.fspath(file), (stat := file.stat()).length, stat.mtime] for file in found]
    return [
        [os.fspath(file), (stat := os.stat(file)).st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for file in found
    ]


def _inside(path):
    """The files of a folder and its folders; of a file that one."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from _inside(entry)


def _code() -> list[str]:
    here = sorted(Path(__file__).parents[1].rglob("*.py"))
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in here)).hexdigest()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return [code, platform.python_version(), np.__version__, *versions]


# The file.


def _packed(data: Data, key: str) -> bytes:
    facts = {
        "key": key,
        "heldout_examples": data.heldout_examples,
        "train_examples": data.train_examples,
        "skipped": data.skipped,
        "redacted": data.redacted,
        "unused": data.unused,
        "kinds": data.kinds,
        "sizes": data.sizes,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(FACTS, json.dumps(facts))
        for split in ("train", "heldout"):
            for name, values in getattr(data, split).items():
                array = io.BytesIO()
                np.save(array, values, allow_pickle=False)
                file.writestr(f"{split}/{name}.npy", array.getbuffer())
    # A zip has check sums of what it lists, and none of its list.
    return hashlib.sha256(out.getvalue()).digest() + out.getvalue()


def _read(path, key: str) -> Data | str:
    """What the file holds, or why that is of no use."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error})"
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return "is damaged"
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        facts = json.loads(file.read(FACTS))
        if facts["key"] != key:
            return "is of other data or settings"
        rows: dict[str, dict] = {"train": {}, "heldout": {}}
        for name in file.namelist():
            if name != FACTS:
                split, _, array = name.removesuffix(".npy").partition("/")
                rows[split][array] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
    return Data(
        rows["train"],
        rows["heldout"],
        facts["heldout_examples"],
        Counter(facts["skipped"]),
        tuple(facts["kinds"]),
        tuple(facts["train_examples"]),
        tuple(facts["sizes"]),
        Counter(facts["redacted"]),
        facts["unused"],
    )
