"""Rows of .csv and .tsv, by the names of the first.

A .csv has quoting, so that a cell may hold line ends; a .tsv has none (IANA's
text/tab-separated-values): a row is a line, and a quotation mark is a character.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from data.errors import DataError
from data.read.reading import Reading, Span, check_escaped, lines, opened

_ROW = re.compile(r"[^\r]*\r\n?|[^\r]+")


def read_csv(path: str, span: Span | None, reading: Reading) -> Iterator[tuple]:
    """(where, raw) pairs for `parse_row`.

    A row on one line that is none is an error of its own. One that has a line end in a quoted cell
    may hold the rows behind it, so there the whole file is.
    """
    del span  # a quoted cell may lie on any place where it could be parted
    at, size = 1, 0  # the line on which the row begins, and its bytes until now

    def texts():
        nonlocal size
        for _, line in lines(file, reading.max_bytes):
            size += reading.max_bytes + 3 if line is None else len(line)
            if size > reading.max_bytes + 2:
                hint = " begins here; a quotation mark in it may never be closed"
                raise DataError(f"{path}:{at}: {reading.too_large(hint)}")
            text = _text(line)
            if "\r" in text:  # alone it ends a line too
                yield from _ROW.findall(text)
            else:
                yield text

    def rows():
        nonlocal at, size
        parser = csv.reader(texts(), strict=True)
        while True:
            at, size = parser.line_num + 1, 0
            try:
                yield f"{path}:{at}", _next_row(parser, reading.max_bytes + 2)
            except StopIteration:
                return
            except csv.Error as error:
                if parser.line_num > at:
                    raise DataError(
                        f"{path}:{at}: not a table: a quoted cell that begins here has no proper "
                        f"end ({error}, on line {parser.line_num}), so nobody can say where the "
                        "next row begins. A quotation mark inside of a quoted cell is written twice"
                    ) from None
                yield f"{path}:{at}", DataError(f"not a row of a table: {error}", "bad_row")

    with opened(path) as file:
        yield from _named(path, rows(), reading)


def _next_row(parser, max_bytes: int) -> list[str]:
    """The next row, with cells of any length: the module's limit is for all readers at once."""
    before = csv.field_size_limit(max_bytes)
    try:
        return next(parser)
    finally:
        csv.field_size_limit(before)


def read_tsv(path: str, span: Span | None, reading: Reading) -> Iterator[tuple]:
    """(where, raw) pairs for `parse_row`."""
    del span

    def rows():
        for number, line in lines(file, reading.max_bytes):
            if line is None:
                yield f"{path}:{number}", reading.too_large()
                continue
            text = _text(line).removesuffix("\n").removesuffix("\r")
            yield f"{path}:{number}", text.split("\t") if text else []

    with opened(path) as file:
        yield from _named(path, rows(), reading)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _named(path: str, rows: Iterator[tuple], reading: Reading) -> Iterator[tuple]:
    """(where, (names, numbers of the columns that are used, row)) of all but blank rows.

    Raises:
      DataError: the first, which names the columns, is none, or names two the same.
    """
    names = None
    for where, row in rows:
        if names is None and isinstance(row, DataError):
            raise DataError(f"{where}: {row}")
        if not row:
            continue
        if names is None:
            names, used = row, [i for i, name in enumerate(row) if reading.uses(name)]
            check_names(where, names)
        elif isinstance(row, DataError):
            yield where, row
        else:
            yield where, (names, used, row)


def check_names(where: str, names: list[str], what: str = "columns") -> None:
    """Raises DataError where two columns have the same name; those without any cannot be used."""
    seen = set()
    for number, name in enumerate(names, 1):
        try:
            check_escaped(name)
        except DataError as error:
            raise DataError(f"{where}: the name of column {number} is {error}") from None
        if name and name in seen:
            raise DataError(
                f"{where}: two {what} are named {name[:60]!r}, and one would be lost; name them "
                "apart, or leave one out"
            )
        seen.add(name)


def parse_row(raw) -> dict[str, str]:
    names, used, row = raw
    if len(names) != len(row):
        raise DataError(f"{len(row)} cells in a table of {len(names)} columns", "bad_row")
    for i in used:
        check_escaped(row[i])
    return dict(zip(names, row, strict=True))
