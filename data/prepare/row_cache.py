"""Row cache: the rows of small data in a workdir, so that a restart does not tokenize them again.

One file, written atomically, keyed by a hash of everything that determines the rows: settings,
tokenizer, the code of data/ and of the tokenizers' libraries, and name, size and times of every
file that is read (the time of writing and the time of the last change, which cannot be set back).
The file is a checksum followed by a zip of arrays and a header.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import platform
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np
from etils import epath

import plugins
from data import pipeline
from data.atomic import write_atomically
from data.config import DataConfig
from data.errors import DataError
from data.packing.origins import Origins
from data.passages import library
from data.pipeline import Data
from data.read import json_files, paths, sources
from data.read.readers import named_reader
from data.text.base import Tokenizer
from interpreter import python

LIBRARIES = ("sentencepiece", "tokenizers", "jinja2", "tensorflow-datasets", "bm25s", "PyStemmer")
# {package of an extra that changes texts: its module}
EXTRAS = {"trafilatura": "trafilatura", "markdownify": "markdownify", "spacy": "spacy",
          "mail-parser-reply": "mailparser_reply", "pyap2": "pyap"}  # fmt: skip
IGNORED = ("batch_size", "batch_ramp")  # settings that do not change the rows
HEADER = "facts.json"
MAX_BYTES = 1 << 30  # of rows in memory that are cached


# The errors of zipfile and NumPy for a file that is none of theirs.
_DAMAGE = (ValueError, LookupError, RuntimeError, ArithmeticError, MemoryError, EOFError, OSError,
           TypeError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error)  # fmt: skip


class Header(TypedDict):
    """The part of `Data` besides the rows, and the key."""

    key: str
    heldout_examples: list[dict]
    train_examples: list[dict]
    skipped: dict[str, int]
    redacted: dict[str, int]
    unused: dict[str, dict[str, int]]
    changes: dict[str, dict[str, int]]
    kinds: list[str]
    sizes: list[int]


def open_data(
    path: epath.PathLike, config: DataConfig, schema: str, tokenizer: Tokenizer, examples: Callable,
    prompt_length: int = 0, say: Callable = lambda text: None,
) -> tuple[Data, Callable]:  # fmt: skip
    """The data of `pipeline.open_data`, from the cache `path` if it holds that. Prepared rows are
    not cached, nor rows of more than MAX_BYTES.

    Args:
      examples: () -> the examples of both splits; called only if the cache does not serve.
      say: called with messages for the log.

    Returns:
      (data, a function () -> None that writes the cache if the data is not in it).
    """
    path, caches = epath.Path(path), not any(config.prepared_folders())
    if caches:
        key = _key(config, schema, tokenizer, prompt_length)
        if path.exists():
            cached = _read(path, key)
            if isinstance(cached, Data):
                say(f"  rows from the cache {path}")
                return cached, lambda: None
            say(f"  {path} {cached}: the data is read again")
    data = pipeline.open_data(config, schema, tokenizer, examples(), prompt_length)
    if caches:
        in_memory = [rows for rows in (data.train, data.heldout) if isinstance(rows, dict)]
        size = sum(values.nbytes for rows in in_memory for values in rows.values())
        caches = size <= MAX_BYTES
        if not caches:
            say(
                f"  {size / 2**30:.1f} GiB of rows are made again at every start; see "
                f"{python()} -m data.prepare"
            )

    def write():
        # Computed again if it was not known: a TFDS data set may have been downloaded meanwhile.
        if caches and (new_key := key or _key(config, schema, tokenizer, prompt_length)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _pack(data, new_key))

    return data, write


# The key.


def _key(config: DataConfig, schema: str, tokenizer: Tokenizer, prompt_length: int) -> str:
    """The hash of everything that determines the rows; "" if a source does not exist yet, or
    cannot be identified."""
    named = [(source.source, schema) for source in config.sources().values()]
    named += [(config.heldout_source, schema)] if config.heldout_source else []
    named += [(settings["source"], "text") for settings in config.decontaminate.values()]
    try:
        files = [
            _identity(item.name, config.tfds_dir)
            for source, source_schema in named
            for item in sources.inputs_of(source, source_schema, config.documents, config.tfds_dir)
        ]
        if config.passages.source:
            files.append(library.identity(config.passages, config.tfds_dir))
    except (DataError, OSError):
        return ""  # reading reports the error
    if not all(files):
        return ""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in IGNORED}
    parts = [settings, schema, prompt_length, tokenizer.fingerprint, files, _code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identity(name: str, tfds_dir: str) -> list:
    """JSON values that are others where the records of a source may be; [] if that is not
    known."""
    named = named_reader(name)
    return named.identity(name, tfds_dir) if named else paths.identity(name)


@functools.cache
def _source_hash() -> str:
    """A hash of the source of data/."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _code() -> list[str]:
    """Identifies the code that makes rows."""
    installed = [name for name in EXTRAS if importlib.util.find_spec(EXTRAS[name])]
    names = (*LIBRARIES, *installed)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    readers = [f"{name} {plugins.fingerprint(name)}" for name in plugins.loaded()]
    return [_source_hash(), platform.python_version(), np.__version__, *versions, *readers]


# The file.


def _pack(data: Data, key: str) -> bytes:
    """The content of the file."""
    header = {
        "key": key,
        "heldout_examples": data.heldout_examples,
        "train_examples": data.train_examples,
        "skipped": data.skipped,
        "redacted": data.redacted,
        "unused": data.unused,
        "changes": data.changes,
        "kinds": data.kinds,
        "sizes": data.sizes,
    }
    out = io.BytesIO()
    origins = Origins.join([part for part in data.origins if isinstance(part, Origins)])
    assert isinstance(data.train, dict)  # prepared rows are not cached
    arrays = {"train": data.train, "heldout": data.heldout, "origins": vars(origins)}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(HEADER, json.dumps(header))
        for group, named in arrays.items():
            for name, values in named.items():
                array = io.BytesIO()
                np.save(array, values, allow_pickle=False)
                file.writestr(f"{group}/{name}.npy", array.getbuffer())
    # A zip has checksums of its members, and none of its directory.
    return hashlib.sha256(out.getvalue()).digest() + out.getvalue()


def _read(path: epath.Path, key: str) -> Data | str:
    """The data in the file, or the reason why it cannot be used."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error})"
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return "is damaged"
    # A checksum finds accidents; a file that somebody made is bounded and checked as well.
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            if sum(member.file_size for member in file.infolist()) > 2 * MAX_BYTES:
                return "unpacks to more than any row cache"
            text = file.read(HEADER)
            if json_files.parse(text, f"{path}: {HEADER}").get("key") != key:
                return "is of other data or settings"
            header = json_files.parse(text, f"{path}: {HEADER}", Header)
            arrays: dict[str, dict] = {"train": {}, "heldout": {}, "origins": {}}
            for name in file.namelist():
                if name != HEADER:
                    group, _, array = name.removesuffix(".npy").partition("/")
                    arrays[group][array] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
    except _DAMAGE as error:
        return f"is damaged ({error!s:.100})"
    return Data(
        arrays["train"],
        arrays["heldout"],
        header["heldout_examples"],
        Counter(header["skipped"]),
        tuple(header["kinds"]),
        tuple(header["train_examples"]),
        tuple(header["sizes"]),
        Counter(header["redacted"]),
        header["unused"],
        (Origins(**arrays["origins"]),),
        header["changes"],
    )
