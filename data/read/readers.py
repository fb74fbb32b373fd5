"""Readers of files by their ending, on this machine or an object store (gs://…), and of data sets
by their name.

| ending | a record |
|---|---|
| .txt | a line, or the whole file |
| .md | the whole file |
| .html, .htm | the whole page, as Markdown |
| .mbox | a thread of mails |
| .jsonl | a line: one JSON object |
| .json | an object of the one list in the file |
| .csv | a row, named by the first |
| .tsv | a line, named by the first; there is no quoting |
| .parquet | a row |
| a folder of Hugging Face `datasets` (`save_to_disk`) | a row |

All but the last two may be gzipped (.gz). To add a format, write its reader in a file of this
folder and add its row to READERS; the settings that a row brings become fields of `config.data`.

A data set by name is `PREFIX:…:SPLIT`, a row of NAMED_READERS: `tfds:`, `hf:` and `hf-stream:`. So
is an export, `PREFIX:PATH`: `zendesk:`, `intercom:` and `slack:` (data/read/exports).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from data.errors import DataError
from data.read import columns, hf_records, json_records, tables, text_files, tfds_records
from data.read.exports import files, intercom, mailboxes, pages, slack, zendesk
from data.read.lines import line_spans
from data.read.reading import Span
from registry import Registry


class Reader(NamedTuple):
    """A way to read the files of one ending.

    Attributes:
      read: (path, span, options) -> (location, record) pairs. A location is "path:line", or
        "path[number]" counted from 0. A record is a dict; a DataError takes the place of a record
        that is bad by itself, such as one larger than `options.max_bytes`, which is never held in
        memory. The reader raises DataError where it cannot tell where the next record begins. It
        has a keyword `settings` if the row has settings.
      spans: path -> parts of the file that can be read separately; [None] is the whole file.
      is_export: whether records are conversations as data/read/exports describes them.
    """

    read: Callable[..., Iterator[tuple[str, dict | DataError]]]
    spans: Callable[[str], list[Span | None]] = lambda path: [None]
    is_export: bool = False


READERS: Registry[Reader] = Registry("reader", "data.source")
for _ending, _reader in {
    ".txt": Reader(text_files.read_lines, line_spans),
    ".md": Reader(text_files.read_whole),
    ".jsonl": Reader(json_records.read_lines, line_spans),
    ".json": Reader(json_records.read_list),
    ".csv": Reader(tables.read_csv),
    ".tsv": Reader(tables.read_tsv),
    ".parquet": Reader(columns.read_parquet, columns.parquet_spans),
    ".html": Reader(pages.read_page),
    ".htm": Reader(pages.read_page),
    ".mbox": Reader(mailboxes.read, is_export=True),
}.items():
    READERS.register(_ending, _reader)
_TEXTS = (".txt", ".md", ".html", ".htm")  # of which no other schema is read
_WHOLE_FILE = Reader(text_files.read_whole)  # a .txt with `documents="file"`
_DATASET = Reader(columns.read_dataset)  # a folder


class NamedReader(NamedTuple):
    """A way to read the data sets of one prefix.

    Attributes:
      read: (name, tfds_dir, span, options) -> (location, record) pairs, as of Reader.
      spans: (name, tfds_dir) -> parts of the data set that can be read separately.
      identity: (name, tfds_dir) -> JSON values that are others where the records may be; [] if
        that is not known.
      pin: name -> the name of the version that is read. is_export: as of Reader.
    """

    read: Callable[..., Iterator[tuple[str, dict | DataError]]]
    spans: Callable[[str, str], list[Span | None]]
    identity: Callable[[str, str], list]
    pin: Callable[[str], str] = lambda name: name
    is_export: bool = False


def _export(read: Callable[..., Iterator[tuple[str, dict | DataError]]]) -> NamedReader:
    return NamedReader(read, lambda name, tfds_dir: [None], files.identity, is_export=True)


_HF = NamedReader(hf_records.read, hf_records.spans, hf_records.identity, hf_records.pin)
NAMED_READERS: Registry[NamedReader] = Registry("named reader", "data.source")
for _prefix, _named in {
    tfds_records.PREFIX: NamedReader(tfds_records.read, tfds_records.spans, tfds_records.identity),
    hf_records.DOWNLOAD: _HF,
    hf_records.STREAM: _HF,
    "zendesk:": _export(zendesk.read),
    "intercom:": _export(intercom.read),
    "slack:": _export(slack.read),
}.items():
    NAMED_READERS.register(_prefix, _named)


def named_reader(source: Any) -> NamedReader | None:
    """The reader of a data set by name; None for a path."""
    prefix = source.partition(":")[0] + ":" if isinstance(source, str) else ""
    return NAMED_READERS.get(prefix)


def may_be_document(source: str | tuple[str, ...]) -> bool:
    """Whether a source may name a .json, in which records have a place."""
    for name in [source] if isinstance(source, str) else source:
        named = named_reader(name)
        if named.is_export if named else name.removesuffix(".gz").endswith((".json", "*")):
            return True
    return False


def reader_of(path: str, schema: str, documents: str, settings: Any = None) -> Reader:
    """The reader of a file.

    Args:
      settings: the group, `config.data`, that holds the settings of readers; None for defaults.

    Raises:
      DataError: no reader has its ending, or gives records of `schema`.
    """
    ending = os.path.splitext(os.path.basename(path).removesuffix(".gz"))[1]
    if ending not in READERS and epath.Path(path).is_dir():
        return _DATASET
    endings = [known for known in READERS if schema == "text" or known not in _TEXTS]
    if ending not in endings:
        raise DataError(
            f"{path}: schema {schema!r} is read from {', '.join(endings)} (.gz of them too), by "
            "the name's ending, or from a folder that `datasets` saved"
        )
    if (ending, documents) == (".txt", "file"):
        return _WHOLE_FILE
    reader, arguments = READERS[ending], READERS.arguments(ending, settings)
    return reader._replace(read=functools.partial(reader.read, **arguments))
