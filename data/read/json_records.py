"""JSON as records: strict where `json.loads` would lose something in silence.

A key that is twice in one object is an error, NaN is null, and what else is no finite number is an
error, as in 1e999.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator

from data.errors import DataError
from data.read.reading import Reading, Span, check_escaped, decode, not_finite, opened

_CHUNK = 1 << 20
_BLANK = re.compile(r"[ \t\n\r]*")


def _unique(pairs: list[tuple]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise DataError(
            f"the key {twice[:60]!r} is there twice in one object, and one value would be lost; "
            "keep one of them",
            "duplicate_key",
        )
    return record


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise not_finite(text)
    return value


def _constant(name: str) -> None:
    if name != "NaN":
        raise not_finite(name)


STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant)
# Finds the end of an object that the other refuses.
_LENIENT = json.JSONDecoder(parse_int=len, parse_float=len)


def _unreadable(error: Exception) -> DataError:
    return DataError(f"not readable JSON: {error}", "bad_json")  # 5000 digits; 2000 brackets


def as_object(record) -> dict:
    if not isinstance(record, dict):
        raise DataError(
            f"a JSON {type(record).__name__} where an object should be: {{...}}",
            "not_an_object",
        )
    return record


def parse_line(raw: bytes) -> dict | None:
    """The object of one line; None where that is blank."""
    line = decode(raw).strip()
    if not line:
        return None
    try:
        return as_object(STRICT.decode(line))
    except DataError:
        raise
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(
            f"not JSON: {error.msg} at {at}column {error.colno}; a .jsonl has one whole object a "
            "line",
            "bad_json",
        ) from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(error) from None


# A file that is one list.


def read_list(path: str, span: Span | None, reading: Reading) -> Iterator[tuple]:
    """(where, object, or the DataError that it is) pairs of a .json, which may be larger than
    memory.

    Raises:
      DataError: the file is no list, or is broken: nobody could say how many objects it has.
    """
    del span  # a list has no parts
    with opened(path) as file:
        for number, item in enumerate(_List(path, file, reading).items()):
            yield f"{path}[{number}]", item


class _List:
    """Reads the items of a JSON list as they come, with a text of one item and some more."""

    def __init__(self, path: str, file, reading: Reading):
        self._path, self._file, self._reading = path, file, reading
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the first character of _text

    def _more(self) -> None:
        """Drops what is done with, and reads as much as is left, so that retries add up to
        little."""
        line, column = self._place(self._at)
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        self._line, self._column, self._at, self._ended = line, column, 0, not data
        self._text = rest + self._decoder.decode(data, final=self._ended)

    def _place(self, at: int) -> tuple[int, int]:
        """(line, column) of a character of _text."""
        breaks = self._text.count("\n", 0, at)
        if breaks:
            return self._line + breaks, at - self._text.rindex("\n", 0, at)
        return self._line, self._column + at

    def _next(self) -> str:
        """The first character that is not blank, which is where _at is then; "" at the end."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def items(self) -> Iterator:
        first = self._next()
        if first and first != "[":
            raise self._no_list(first)
        self._at += 1
        while first:
            if first == "[" and self._next() == "]":
                break
            yield self._item()
            first = self._next()
            if first == "]":
                break
            if first != ",":
                raise self._broken("Expecting ',' delimiter", self._at)
            self._at += 1
            self._next()
        self._at += 1
        if self._next():
            raise self._broken("Extra data", self._at)

    def _item(self):
        limit = self._reading.max_bytes
        while True:
            error = None
            try:
                item, end = self._parse()
            except json.JSONDecodeError as found:
                error, end = found, len(self._text)
            except (ValueError, RecursionError) as found:
                raise DataError(f"{self._path}: {_unreadable(found)}") from None
            cut = end == len(self._text) and not self._ended and not _is_final(error, end)
            if cut and end - self._at <= limit:
                self._more()
                continue
            if cut:
                line, _ = self._place(self._at)
                raise DataError(f"{self._path}:{line}: {self._reading.too_large()}")
            if error:
                raise self._broken(error.msg, error.pos)
            text, self._at = self._text[self._at : end], end
            try:
                check_escaped(text)
            except DataError as bad:
                return bad
            size = len(text) if text.isascii() else len(text.encode("utf-8"))
            return self._reading.too_large() if size > limit else item

    def _parse(self):
        """(item, end) of what begins at _at; the item may be the error that it is."""
        try:
            return STRICT.raw_decode(self._text, self._at)
        except DataError as error:
            return error, _LENIENT.raw_decode(self._text, self._at)[1]
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # an integer of 5000 digits
            return _unreadable(error), _LENIENT.raw_decode(self._text, self._at)[1]

    def _broken(self, message: str, at: int) -> DataError:
        try:
            check_escaped(self._text[max(0, at - 1) : at + 100])
        except DataError as error:
            message, hint = str(error), ""
        else:
            message, hint = f"not JSON: {message}", "; a .json is one list of objects"
        line, column = self._place(at)
        return DataError(f"{self._path}: {message} at line {line}, column {column}{hint}")

    def _no_list(self, first: str) -> DataError:
        if first != "{":
            return self._broken(f"Expecting '[' and not {first!r}", self._at)
        stem, gz = self._path.removesuffix(".gz"), ".gz" * self._path.endswith(".gz")
        return DataError(
            f"{self._path}: a JSON dict; a .json that is read is one list of objects: [{{...}}, "
            f"...]. If it is one object a line, name it {stem}l{gz}"
        )


def _is_final(error: json.JSONDecodeError | None, end: int) -> bool:
    """Whether more text would not mend what a parser says of a text that ends at `end`: it stopped
    before that, and not for want of a closing quotation mark."""
    return bool(error) and error.pos < end - 12 and not error.msg.startswith("Unterminated")
