"""Rows of Parquet and of Arrow streams, of the columns that are used alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

from etils import epath

from data.errors import DataError
from data.read import json_files
from data.read.reading import Reading, Span, opened
from data.read.tables import check_names
from data.read.templates import UNREAD

_BATCH_ROWS, _BATCH_BYTES = 1024, 64 << 20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's; without it nobody misses a lost part


def _errors() -> tuple:
    """Exceptions of pyarrow at a damaged file; a DataError is one of them too."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, MemoryError)


def _as_data_error(path: str, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(f"{path}: cannot be read: {(str(error) or repr(error)).splitlines()[0]}")


# Parquet.


def read_parquet(path: str, span: Span | None, reading: Reading) -> Iterator[tuple]:
    """(where, record, or the DataError that it is) pairs; a span counts row groups."""
    from pyarrow import parquet

    with opened(path) as file:
        try:
            table = parquet.ParquetFile(file)
            names, used = _columns(path, table.schema_arrow, reading)
            sizes = _group_sizes(table.metadata)
            start, stop = (span.start, span.stop) if span else (0, len(sizes))
            number = sum(sizes[:start])
            for group in range(start, stop):
                end = number + sizes[group]
                facts, most = table.metadata.row_group(group), max(reading.max_bytes, _BATCH_BYTES)
                mean = facts.total_byte_size // max(sizes[group], 1)
                # pyarrow aborts the process where the facts of a column are damaged, so that they
                # are asked for only if it may be a column that is not used.
                if mean > most:
                    mean = _bytes_of(facts, used) // max(sizes[group], 1)
                if mean > most:  # known before it is in memory
                    hint = f": the rows of row group {group} have {mean:,} on average"
                    raise DataError(f"{path}[{number}]: {reading.too_large(hint)}")
                rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(mean, 1)))
                for batch in table.iter_batches(rows, row_groups=[group], columns=used):
                    for record in _records(batch, names, reading):
                        yield f"{path}[{number}]", record
                        number += 1
                if number != end:  # pyarrow takes a damaged page for the last one
                    raise ValueError(f"row group {group} lacks {end - number} rows")
        except _errors() as error:
            raise _as_data_error(path, error) from error


def _group_sizes(facts) -> list[int]:
    sizes = [facts.row_group(g).num_rows for g in range(facts.num_row_groups)]
    if sum(sizes) != facts.num_rows:
        raise ValueError(f"its row groups hold {sum(sizes)} rows, and it says {facts.num_rows}")
    return sizes


def _bytes_of(group, used: list[str]) -> int:
    """Bytes of the used columns of a row group, not compressed."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in used)
    )


def parquet_spans(path: str, rows: int) -> list[Span | None]:
    """Parts of row groups, of `rows` rows or a little more."""
    from pyarrow import parquet

    with opened(path) as file:
        try:
            sizes = _group_sizes(parquet.ParquetFile(file).metadata)
        except _errors() as error:
            raise _as_data_error(path, error) from error
    spans, start, count = [], 0, 0
    for group, size in enumerate(sizes):
        count += size
        if count >= rows or group == len(sizes) - 1:
            spans.append(Span(start, group + 1))
            start, count = group + 1, 0
    return spans or [None]


# Arrow.


def read_dataset(path: str, span: Span | None, reading: Reading) -> Iterator[tuple]:
    """(where, record, or the DataError that it is) pairs of what `datasets` saved: Arrow streams,
    in the order of state.json."""
    import pyarrow

    del span  # the streams have no parts
    entries = json_files.read(epath.Path(path) / "state.json").get("_data_files")
    entries = entries if isinstance(entries, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(name, str) and len(name) < 256 for name in names):
        raise DataError(f"{path}/state.json names no data files; save the data set again")
    number = 0
    for name in names:
        file_path = os.path.join(path, name)
        with opened(file_path) as file:
            try:
                stream = pyarrow.ipc.open_stream(file)
                columns, used = _columns(file_path, stream.schema, reading)
                for batch in stream:
                    batch = batch.select(used)
                    _check(batch)
                    for record in _records(batch, columns, reading):
                        yield f"{path}[{number}]", record
                        number += 1
                rest = file.read(1)
                file.seek(-len(_END_OF_STREAM), os.SEEK_END)
                if rest or file.read() != _END_OF_STREAM:
                    raise ValueError("the stream does not end where the file does")
            except _errors() as error:
                raise _as_data_error(file_path, error) from error


def _check(batch) -> None:
    """Raises ArrowInvalid for a damaged batch, which would lead outside of its memory. Text that is
    not UTF-8 passes: it is one record's fault."""
    import pyarrow

    try:
        batch.validate(full=True)
    except pyarrow.ArrowInvalid:
        for column in batch.columns:
            column.view(_as_bytes(column.type)).validate(full=True)


def _as_bytes(kind):
    """An Arrow type with bytes in the place of text."""
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


# Columns of both.


def _columns(path: str, schema, reading: Reading) -> tuple[list[str], list[str]]:
    """(the names of the columns, of those that are used).

    Raises:
      DataError: two have the same name, or two fields of a used one.
    """
    check_names(path, schema.names)
    used = [name for name in schema.names if reading.uses(name)]
    for name in used:
        _check_fields(f"{path}: column {name[:60]!r}", schema.field(name).type)
    return schema.names, used


def _check_fields(where: str, kind) -> None:
    inside = [kind.field(i) for i in range(kind.num_fields)]
    check_names(where, [field.name for field in inside], "fields")
    for field in inside:
        _check_fields(where, field.type)


def _records(batch, names: list[str], reading: Reading) -> Iterator:
    """The records of a batch, each a dict or the DataError that it is."""
    columns = {name: _values(name, batch.column(name)) for name in batch.schema.names}
    large = batch.nbytes > reading.max_bytes
    for i in range(batch.num_rows):
        values = {name: column[i] for name, column in columns.items()}
        bad = next((value for value in values.values() if isinstance(value, DataError)), None)
        if bad is None and large and batch.slice(i, 1).nbytes > reading.max_bytes:
            bad = reading.too_large()
        yield bad or dict.fromkeys(names, UNREAD) | values


def _values(name: str, column) -> list:
    """The values of a column; a DataError in the place of one that there is not in Python."""
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
    except (ValueError, OverflowError) as error:  # of a time beyond microseconds, or year 9999
        return DataError(f"{name!r} cannot be read: {error}", "bad_cell")
