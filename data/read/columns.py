"""Rows of Parquet files and Arrow streams; only the columns that are used are decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from data.errors import DataError
from data.read import json_files, paths
from data.read.reading import SPAN_RECORDS, ReadOptions, Span, opened, parse_each, plain
from data.read.tables import check_names
from data.schemas.templates import UNREAD

_BATCH_ROWS, _BATCH_BYTES = 1024, 64 << 20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # Arrow's; without it a lost end would go unnoticed


def _errors() -> tuple:
    """The exceptions of pyarrow for a damaged file."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, MemoryError)


def _as_data_error(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {(str(error) or repr(error)).splitlines()[0]}")


# Parquet.


def read_parquet(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, row) pairs of a Parquet file; a span counts row groups."""
    return parse_each(_parquet_rows(path, span, options), plain)


def _parquet_rows(path: str, span: Span | None, options: ReadOptions) -> Iterator[tuple]:
    from pyarrow import parquet

    with opened(path) as file:
        try:
            table = parquet.ParquetFile(file)
            names, used = used_columns(path, table.schema_arrow, options)
            sizes = _group_sizes(table.metadata)
            start, stop = (span.start, span.stop) if span else (0, len(sizes))
            number = sum(sizes[:start])
            for group in range(start, stop):
                end = number + sizes[group]
                metadata = table.metadata.row_group(group)
                most = max(options.max_bytes, _BATCH_BYTES)
                mean = metadata.total_byte_size // max(sizes[group], 1)
                # pyarrow aborts the process where a column's metadata is damaged, so it is read
                # only if the size may be that of columns that are not used.
                if mean > most:
                    mean = _bytes_of(metadata, used) // max(sizes[group], 1)
                if mean > most:  # refused before it is in memory
                    hint = f": the rows of row group {group} have {mean:,} on average"
                    raise DataError(f"{path}[{number}]: {options.too_large(hint)}")
                rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(mean, 1)))
                for batch in table.iter_batches(rows, row_groups=[group], columns=used):
                    for record in records_of(batch, names, options):
                        yield f"{path}[{number}]", record
                        number += 1
                if number != end:  # pyarrow stops at a damaged page without an error
                    raise ValueError(f"row group {group} lacks {end - number} rows")
        except DataError:
            raise
        except _errors() as error:
            raise _as_data_error(path, error) from error


def _group_sizes(metadata) -> list[int]:
    """The number of rows in each row group."""
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    if sum(sizes) != metadata.num_rows:
        raise ValueError(f"its row groups hold {sum(sizes)} rows, and it says {metadata.num_rows}")
    return sizes


def _bytes_of(group, used: list[str]) -> int:
    """The uncompressed size of the used columns of a row group, in bytes."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in used)
    )


def parquet_spans(path: str) -> list[Span | None]:
    """Spans of whole row groups, of SPAN_RECORDS rows or a little more."""
    from pyarrow import parquet

    with opened(path) as file:
        try:
            sizes = _group_sizes(parquet.ParquetFile(file).metadata)
        except DataError:
            raise
        except _errors() as error:
            raise _as_data_error(path, error) from error
    spans: list[Span | None] = []
    start, count = 0, 0
    for group, size in enumerate(sizes):
        count += size
        if count >= SPAN_RECORDS or group == len(sizes) - 1:
            spans.append(Span(start, group + 1))
            start, count = group + 1, 0
    return spans or [None]


# Arrow.


def read_dataset(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, row) pairs of a folder that `datasets` saved: Arrow streams, in the order of
    state.json."""
    del span  # the streams have no spans
    return parse_each(_dataset_rows(path, options), plain)


def _dataset_rows(path: str, options: ReadOptions) -> Iterator[tuple]:
    import pyarrow

    entries = json_files.read(epath.Path(path) / "state.json").get("_data_files")
    entries = entries if isinstance(entries, list) else []
    names: list[Any] = [
        entry.get("filename") if isinstance(entry, dict) else None for entry in entries
    ]
    if not names or not all(isinstance(name, str) and len(name) < 256 for name in names):
        raise DataError(f"{path}/state.json names no data files; save the data set again")
    number = 0
    for name in names:
        file_path = paths.inside(path, name, f"{path}/state.json")
        with opened(file_path) as file:
            try:
                stream = pyarrow.ipc.open_stream(file)
                columns, used = used_columns(file_path, stream.schema, options)
                for batch in stream:
                    batch = batch.select(used)
                    _validate(batch)
                    for record in records_of(batch, columns, options):
                        yield f"{path}[{number}]", record
                        number += 1
                rest = file.read(1)
                file.seek(-len(_END_OF_STREAM), os.SEEK_END)
                if rest or file.read() != _END_OF_STREAM:
                    raise ValueError("the stream does not end where the file does")
            except DataError:
                raise
            except _errors() as error:
                raise _as_data_error(file_path, error) from error


def _validate(batch) -> None:
    """Raises ArrowInvalid for a damaged batch, whose offsets would lead outside its memory. Text
    that is not UTF-8 passes: only one record is bad."""
    import pyarrow

    try:
        batch.validate(full=True)
    except pyarrow.ArrowInvalid:
        for column in batch.columns:
            column.view(_as_bytes(column.type)).validate(full=True)


def _as_bytes(kind):
    """An Arrow type with text replaced by bytes."""
    import pyarrow

    def inside(field):
        return field.with_type(_as_bytes(field.type))

    types = pyarrow.types
    if types.is_string(kind):
        return pyarrow.binary()
    if types.is_large_string(kind):
        return pyarrow.large_binary()
    if types.is_string_view(kind):
        return pyarrow.binary_view()
    if types.is_dictionary(kind):
        return pyarrow.dictionary(kind.index_type, _as_bytes(kind.value_type), kind.ordered)
    if types.is_struct(kind):
        return pyarrow.struct([inside(kind.field(i)) for i in range(kind.num_fields)])
    if types.is_list(kind):
        return pyarrow.list_(inside(kind.value_field))
    if types.is_large_list(kind):
        return pyarrow.large_list(inside(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(inside(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pyarrow.map_(inside(kind.key_field), inside(kind.item_field))
    return kind


# Columns of both formats.


def used_columns(path: str, schema: Any, options: ReadOptions) -> tuple[list[str], list[str]]:
    """(the names of all columns, the names of those that are used; one without a name is not).

    Raises:
      DataError: two columns, or two fields of a used one, have the same name.
    """
    check_names(path, schema.names)
    used = [name for name in schema.names if name and options.uses(name)]
    for name in used:
        _check_fields(f"{path}: column {name[:60]!r}", schema.field(name).type)
    return schema.names, used


def _check_fields(location: str, kind) -> None:
    """Raises DataError if two fields of an Arrow type have the same name."""
    fields = [kind.field(i) for i in range(kind.num_fields)]
    check_names(location, [field.name for field in fields], "fields")
    for field in fields:
        _check_fields(location, field.type)


def records_of(batch: Any, names: list[str], options: ReadOptions) -> Iterator[dict | DataError]:
    """The records of a batch; a DataError in place of a bad one."""
    columns = {name: _values(name, batch.column(name)) for name in batch.schema.names}
    large = batch.nbytes > options.max_bytes
    for i in range(batch.num_rows):
        values = {name: column[i] for name, column in columns.items()}
        bad = next((value for value in values.values() if isinstance(value, DataError)), None)
        if bad is None and large and batch.slice(i, 1).nbytes > options.max_bytes:
            bad = options.too_large()
        yield bad or dict.fromkeys(names, UNREAD) | values


def _values(name: str, column) -> list:
    """The values of a column; a DataError in place of a value that Python cannot represent."""
    try:
        return column.to_pylist(maps_as_pydicts="strict")
    except (ValueError, OverflowError, KeyError):
        return [_value(name, cell) for cell in column]


def _value(name: str, cell):
    name = name[:60]
    try:
        return cell.as_py(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        return DataError(
            f"{name!r} is not UTF-8: {error.reason} at offset {error.start}", "invalid_utf8"
        )
    except KeyError as error:  # of a map
        return DataError(f"{name!r} is a map with a key twice: {error.args[0]}", "duplicate_key")
    except (ValueError, OverflowError) as error:  # a time finer than microseconds, or year 10000
        return DataError(f"{name!r} cannot be read: {error}", "bad_cell")
