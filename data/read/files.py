"""Files of records, on this machine or on an object store (gs://…): what a file holds.

| ending | a record |
|---|---|
| .txt | a line, or the whole file |
| .jsonl | a line: one JSON object |
| .json | an object of the one list that the file is |
| .csv | a row, by the names of the first |
| .tsv | a line, by the names of the first; there is no quoting |
| .parquet | a row |
| a folder of Hugging Face `datasets` (`save_to_disk`) | a row |

All but the last two may be gzipped (.gz). A line of a file is found again by `path:line`, a record
by `path[number]`, counted from 0. What is larger than `Reading.max_bytes` is an error before it is
in memory: of that record in formats of lines, of the file where nobody could say where the next
begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from etils import epath

from data.errors import DataError
from data.read import columns, json_records, tables
from data.read.reading import Reading, Span, decode, lines, opened, pass_line, plain, whole

# Bytes of a .txt or .jsonl that are one task when a corpus is prepared (data/prepare/prepare.py).
SPAN_BYTES = 64 << 20
SPAN_RECORDS = 50_000  # and records of what is read by their number


def _lines(path: str, span: Span | None, reading: Reading):
    with opened(path) as file:
        for number, line in lines(file, reading.max_bytes, span):
            yield f"{path}:{number}", reading.too_large() if line is None else line


def _line_spans(path: str) -> list[Span | None]:
    """Parts of whole lines, of SPAN_BYTES or a little more; a gzip is one, as it has no middle."""
    if path.endswith(".gz"):
        return [None]
    spans, start, line = [], 0, 1
    with opened(path) as file:
        while data := file.read(SPAN_BYTES):
            stop, after = start + len(data), line + data.count(b"\n")
            if not data.endswith(b"\n"):
                stop, after = stop + pass_line(file), after + 1
            spans.append(Span(start, stop, line))
            start, line = stop, after
    return spans or [None]


def _whole(path: str, span: Span | None, reading: Reading):
    del span
    with opened(path) as file:
        data = whole(file, reading.max_bytes)
        yield f"{path}:1", reading.too_large() if data is None else data


def _text(raw: bytes):
    text = decode(raw).removesuffix("\n")
    return {"text": text} if text.strip() else None


class Format(NamedTuple):
    """Attributes:
    records: (path, span, reading) -> (where, raw) pairs; a raw that is a DataError is what is wrong
      with that record. parse: raw -> a record, or None for a blank line.
    spans: path -> parts that can be read apart.
    """

    records: Callable[[str, Span | None, Reading], Iterator]
    parse: Callable
    spans: Callable[[str], list[Span | None]] = lambda path: [None]


_LINES = Format(_lines, _text, _line_spans)
_WHOLE = Format(_whole, _text)
FORMATS = {
    ".txt": _LINES,
    ".jsonl": Format(_lines, json_records.parse_line, _line_spans),
    ".json": Format(json_records.read_list, json_records.as_object),
    ".csv": Format(tables.read_csv, tables.parse_row),
    ".tsv": Format(tables.read_tsv, tables.parse_row),
    ".parquet": Format(
        columns.read_parquet, plain, lambda path: columns.parquet_spans(path, SPAN_RECORDS)
    ),
}
_DATASET = Format(columns.read_dataset, plain)


def format_of(path: str, schema: str, documents: str) -> Format:
    """How a file is read.

    Raises:
      DataError: by its ending, it cannot be, or not as records of `schema`.
    """
    ending = os.path.splitext(os.path.basename(path).removesuffix(".gz"))[1]
    if ending not in FORMATS and epath.Path(path).is_dir():
        return _DATASET
    wanted = [known for known in FORMATS if schema == "text" or known != ".txt"]
    if ending not in wanted:
        raise DataError(
            f"{path}: schema {schema!r} is read from {', '.join(wanted)} (.gz of them too), by the "
            "name's ending, or from a folder that `datasets` saved"
        )
    return _WHOLE if (ending, documents) == (".txt", "file") else FORMATS[ending]
