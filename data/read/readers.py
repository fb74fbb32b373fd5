"""Readers of files by their ending, on this machine or an object store (gs://…).

| ending | a record |
|---|---|
| .txt | a line, or the whole file |
| .jsonl | a line: one JSON object |
| .json | an object of the one list in the file |
| .csv | a row, named by the first |
| .tsv | a line, named by the first; there is no quoting |
| .parquet | a row |
| a folder of Hugging Face `datasets` (`save_to_disk`) | a row |

All but the last two may be gzipped (.gz). To add a format, write its reader in a file of this
folder and add its row to READERS; the settings that a row brings become fields of `config.data`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from data.errors import DataError
from data.read import columns, json_records, tables, text_files
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
    """

    read: Callable[..., Iterator[tuple[str, dict | DataError]]]
    spans: Callable[[str], list[Span | None]] = lambda path: [None]


READERS: Registry[Reader] = Registry("reader", "data.source")
for _ending, _reader in {
    ".txt": Reader(text_files.read_lines, line_spans),
    ".jsonl": Reader(json_records.read_lines, line_spans),
    ".json": Reader(json_records.read_list),
    ".csv": Reader(tables.read_csv),
    ".tsv": Reader(tables.read_tsv),
    ".parquet": Reader(columns.read_parquet, columns.parquet_spans),
}.items():
    READERS.register(_ending, _reader)
_WHOLE_FILE = Reader(text_files.read_whole)  # a .txt with `documents="file"`
_DATASET = Reader(columns.read_dataset)  # a folder


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
    endings = [known for known in READERS if schema == "text" or known != ".txt"]
    if ending not in endings:
        raise DataError(
            f"{path}: schema {schema!r} is read from {', '.join(endings)} (.gz of them too), by "
            "the name's ending, or from a folder that `datasets` saved"
        )
    if (ending, documents) == (".txt", "file"):
        return _WHOLE_FILE
    reader, arguments = READERS[ending], READERS.arguments(ending, settings)
    return reader._replace(read=functools.partial(reader.read, **arguments))
