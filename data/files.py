"""Files of records, on this machine or on an object store (gs://…): what a file holds.

| ending | a record |
|---|---|
| .txt | a line, or the whole file |
| .jsonl | a line: one JSON object |
| .json | an object of the one list that the file is |
| .csv, .tsv | a row, by the names of the first |
| .parquet | a row |
| a folder of Hugging Face `datasets` (`save_to_disk`) | a row |

All but the last two may be gzipped (.gz). A line of a file is found again by `path:line`, a record
by `path[number]`, counted from 0.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from etils import epath

from data.paths import is_remote, json_file
from data.templates import DataError

# Bytes of a .txt or .jsonl that are one task when a corpus is prepared (data/prepare.py).
SPAN_BYTES = 64 << 20
SPAN_RECORDS = 50_000  # and records of what is read by their number


class Span(NamedTuple):
    """A part of a file: [start, stop) in bytes or in records; `line` is the number of its first."""

    start: int
    stop: int
    line: int = 1


@contextlib.contextmanager
def opened(path: str):
    """The file in binary, unzipped; what goes wrong while reading it becomes a DataError."""
    try:
        with open(path, "rb") if not is_remote(path) else epath.Path(path).open("rb") as raw:
            if path.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as file:
                    yield file
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: broken gzip ({error}); was the download cut short? "
            f"Fetch or compress it again, and check with: gzip -t {path}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode(raw: bytes) -> str:
    """Bytes as text, without a byte order mark and with Unix line ends."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        raise DataError(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
            + (f", on line {line + 1}" if line else "")
            + ". Convert the file: iconv -f ENCODING -t UTF-8 FILE",
            "invalid_utf8",
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def plain(value):
    """Bytes and NumPy values, of TFDS or Arrow, as Python's."""
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
        return decode(value) if isinstance(value, bytes) else plain(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _lines(path: str, span: Span | None):
    with opened(path) as file:
        start, stop, first = span or (0, None, 1)
        if start:
            file.seek(start)
        for number, line in enumerate(file, first):
            yield f"{path}:{number}", line
            start += len(line)
            if stop is not None and start >= stop:
                return


def _line_spans(path: str) -> list[Span | None]:
    """Parts of whole lines, of SPAN_BYTES or a little more; a gzip is one, as it has no middle."""
    if path.endswith(".gz"):
        return [None]
    spans, start, line = [], 0, 1
    with opened(path) as file:
        while data := file.read(SPAN_BYTES):
            data += file.readline()
            spans.append(Span(start, start + len(data), line))
            start, line = start + len(data), line + data.count(b"\n")
    return spans or [None]


def _whole(path: str, span):
    with opened(path) as file:
        yield f"{path}:1", file.read()


def _text(raw: bytes):
    text = decode(raw).removesuffix("\n")
    return {"text": text} if text.strip() else None


def _object(record):
    if not isinstance(record, dict):
        raise DataError(
            f"a JSON {type(record).__name__} where an object should be: {{...}}",
            "not_an_object",
        )
    return record


def _parse_json(text: str, hint: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(
            f"not JSON: {error.msg} at {line}column {error.colno}{hint}", "bad_json"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits; 2000 brackets
        raise DataError(f"not readable JSON: {error}", "bad_json") from None


def _json_line(raw: bytes):
    line = decode(raw).strip()
    return _object(_parse_json(line, "; a .jsonl has one whole object a line")) if line else None


def _json_list(path: str, span):
    """A broken file gives no record at all, whatever `on_bad`: nobody could say how many it has."""
    with opened(path) as file:
        raw = file.read()
    try:
        text = decode(raw)
        found = _parse_json(text, "; a .json is one list of objects") if text.strip() else []
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(found, list):
        raise DataError(
            f"{path}: a JSON {type(found).__name__}; a .json that is read is one list of objects. "
            f"If it is one object a line, name it {path}l"
        )
    for number, record in enumerate(found):
        yield f"{path}[{number}]", record


def _table(path: str, span):
    """Rows of a .csv or .tsv, by the names of the first. One that a quote runs through to the end
    of the file is an error."""
    tabs = ".tsv" in os.path.basename(path)
    with opened(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(lines, "excel-tab" if tabs else "excel", strict=True)
        names, at = None, 1
        try:
            for row in rows:
                where, at = f"{path}:{at}", rows.line_num + 1
                if names is None:
                    names = row
                elif row:
                    yield where, (names, row)
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: not a table: {error}") from None
        finally:
            with contextlib.suppress(ValueError):
                lines.detach()


def _table_row(raw):
    names, row = raw
    if len(names) != len(row):
        raise DataError(f"{len(row)} cells in a table of {len(names)} columns", "bad_row")
    for text in (*names, *row):
        decode(text.encode("utf-8", "surrogateescape"))
    return dict(zip(names, row, strict=True))


def _arrow_errors(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {(str(error) or repr(error)).splitlines()[0]}")


def _parquet(path: str, span: Span | None):
    import pyarrow
    from pyarrow import parquet

    with opened(path) as file:
        try:
            table = parquet.ParquetFile(file)
            sizes = _group_sizes(table.metadata)
            start, stop = (span.start, span.stop) if span else (0, len(sizes))
            number = sum(sizes[:start])
            for group in range(start, stop):
                end = number + sizes[group]
                for batch in table.iter_batches(1024, row_groups=[group]):
                    for record in batch.to_pylist():
                        yield f"{path}[{number}]", record
                        number += 1
                if number != end:  # pyarrow takes a damaged page for the last one
                    raise ValueError(f"row group {group} lacks {end - number} rows")
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise _arrow_errors(path, error) from error


def _group_sizes(facts) -> list[int]:
    sizes = [facts.row_group(g).num_rows for g in range(facts.num_row_groups)]
    if sum(sizes) != facts.num_rows:
        raise ValueError(f"its row groups hold {sum(sizes)} rows, and it says {facts.num_rows}")
    return sizes


def _parquet_spans(path: str) -> list[Span | None]:
    """Of row groups, about SPAN_RECORDS rows each."""
    import pyarrow
    from pyarrow import parquet

    with opened(path) as file:
        try:
            sizes = _group_sizes(parquet.ParquetFile(file).metadata)
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise _arrow_errors(path, error) from error
    spans, start, rows = [], 0, 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= SPAN_RECORDS or group == len(sizes) - 1:
            spans.append(Span(start, group + 1))
            start, rows = group + 1, 0
    return spans or [None]


_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's; without it nobody misses a lost part


def _dataset(path: str, span):
    """Rows of what `datasets` saved: Arrow streams, in the order of state.json."""
    import pyarrow

    folder = epath.Path(path)
    state = json_file(folder / "state.json")
    names = [entry.get("filename") for entry in state.get("_data_files") or () if entry]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}/state.json names no data files; save the data set again")
    number = 0
    for name in names:
        file_path = os.path.join(path, name)
        with opened(file_path) as file:
            try:
                for batch in pyarrow.ipc.open_stream(file):
                    batch.validate(full=True)  # a damaged one would lead outside of its memory
                    for record in batch.to_pylist():
                        yield f"{path}[{number}]", record
                        number += 1
                rest = file.read(1)
                file.seek(-len(_END_OF_STREAM), os.SEEK_END)
                if rest or file.read() != _END_OF_STREAM:
                    raise ValueError("the stream does not end where the file does")
            except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
                raise _arrow_errors(file_path, error) from error


class Format(NamedTuple):
    """Attributes:
    records: (path, span) -> (where, raw) pairs. parse: raw -> a record, or None for a blank line.
    spans: path -> parts that can be read apart.
    """

    records: Callable[[str, Span | None], Iterator]
    parse: Callable
    spans: Callable[[str], list[Span | None]] = lambda path: [None]


_LINES = Format(_lines, _text, _line_spans)
_WHOLE = Format(_whole, _text)
FORMATS = {
    ".txt": _LINES,
    ".jsonl": Format(_lines, _json_line, _line_spans),
    ".json": Format(_json_list, _object),
    ".csv": Format(_table, _table_row),
    ".tsv": Format(_table, _table_row),
    ".parquet": Format(_parquet, plain, _parquet_spans),
}
_DATASET = Format(_dataset, plain)


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
