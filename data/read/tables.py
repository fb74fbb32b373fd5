"""Rows of .csv and .tsv files, named by the first row.

A .csv has quoting, so a cell may contain line ends; a .tsv has none (IANA's
text/tab-separated-values): a row is a line, and a quotation mark is a character like any other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from data.errors import DataError
from data.read.lines import lines
from data.read.reading import ReadOptions, Span, check_escaped, opened, parse_each

_ROW = re.compile(r"[^\r]*\r\n?|[^\r]+")


def read_csv(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, row) pairs of a .csv.

    A malformed row on one line is a bad record. A malformed row with a line end in a quoted cell
    may contain the rows after it, so it is an error of the file.
    """
    del span  # no place is known to be outside a quoted cell
    at, size = 1, 0  # the line on which the row begins, and its bytes so far

    def texts():
        nonlocal size
        for _, line in lines(file, options.max_bytes):
            size += options.max_bytes + 3 if line is None else len(line)
            if line is None or size > options.max_bytes + 2:
                hint = " begins here; a quotation mark in it may never be closed"
                raise DataError(f"{path}:{at}: {options.too_large(hint)}")
            text = _text(line)
            if "\r" in text:  # a lone \r ends a line as well
                yield from _ROW.findall(text)
            else:
                yield text

    def rows():
        nonlocal at, size
        parser = csv.reader(texts(), strict=True)
        while True:
            at, size = parser.line_num + 1, 0
            try:
                yield f"{path}:{at}", _next_row(parser, options.max_bytes + 2)
            except StopIteration:
                return
            except csv.Error as error:
                if parser.line_num > at:
                    raise DataError(
                        f"{path}:{at}: not a table: a quoted cell that begins here has no proper "
                        f"end ({error}, on line {parser.line_num}), so it is unknown where "
                        "the next row begins. A quotation mark in a quoted cell is written twice"
                    ) from None
                yield f"{path}:{at}", DataError(f"not a row of a table: {error}", "bad_row")

    with opened(path) as file:
        yield from _records(rows(), options)


def _next_row(parser, max_bytes: int) -> list[str]:
    """The next row. The csv module's limit on cells is global, so it is set for this row alone."""
    before = csv.field_size_limit(max_bytes)
    try:
        return next(parser)
    finally:
        csv.field_size_limit(before)


def read_tsv(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, row) pairs of a .tsv."""
    del span

    def rows():
        for number, line in lines(file, options.max_bytes):
            if line is None:
                yield f"{path}:{number}", options.too_large()
                continue
            text = _text(line).removesuffix("\n").removesuffix("\r")
            yield f"{path}:{number}", text.split("\t") if text else []

    with opened(path) as file:
        yield from _records(rows(), options)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _records(
    rows: Iterator[tuple[str, list[str] | DataError]], options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs of all rows after the first, except blank ones.

    Raises:
      DataError: the first row, which names the columns, is malformed, or names two the same.
    """
    for location, names in rows:
        if isinstance(names, DataError):
            raise DataError(f"{location}: {names}")
        if names:
            check_names(location, names)
            break
    else:
        return
    used = [i for i, name in enumerate(names) if options.uses(name)]

    def record(row: list[str]) -> dict[str, str] | None:
        if not row:
            return None
        if len(names) != len(row):
            raise DataError(f"{len(row)} cells in a table of {len(names)} columns", "bad_row")
        for i in used:
            check_escaped(row[i])
        return dict(zip(names, row, strict=True))

    yield from parse_each(rows, record)


def check_names(location: str, names: list[str], plural: str = "columns") -> None:
    """Raises DataError if two columns have the same name. Columns without a name are not used."""
    seen = set()
    for number, name in enumerate(names, 1):
        try:
            check_escaped(name)
        except DataError as error:
            raise DataError(f"{location}: the name of column {number} is {error}") from None
        if name and name in seen:
            raise DataError(
                f"{location}: two {plural} are named {name[:60]!r}, and one would be lost; give "
                "them different names, or leave one out"
            )
        seen.add(name)
