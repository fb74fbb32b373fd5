"""Records of .jsonl and .json files, decoded strictly where `json.loads` silently loses something.

A duplicate key in an object is an error, NaN is read as null, and any other number that is not
finite is an error, such as 1e999.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
from collections.abc import Iterator

from data.errors import DataError
from data.read.lines import read_raw_lines
from data.read.reading import (
    ReadOptions,
    Span,
    check_escaped,
    decode,
    not_finite,
    opened,
    parse_each,
)
from suggestions import did_you_mean, nearest

_CHUNK = 1 << 20
_DEPTH = 16  # of objects that are read key by key
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
# Finds the end of an object that STRICT refuses.
_LENIENT = json.JSONDecoder(parse_int=len, parse_float=len)


def _unreadable(error: Exception) -> DataError:
    return DataError(f"not readable JSON: {error}", "bad_json")  # 5000 digits; 2000 brackets


def _as_object(record) -> dict:
    if not isinstance(record, dict):
        raise DataError(
            f"a JSON {type(record).__name__} where an object should be: {{...}}",
            "not_an_object",
        )
    return record


def read_lines(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, object) pairs of a .jsonl; blank lines are skipped."""
    return parse_each(read_raw_lines(path, span, options), parse_line)


def parse_line(raw: bytes) -> dict | None:
    """The object on a line; None for a blank line."""
    line = decode(raw).strip()
    if not line:
        return None
    try:
        return _as_object(STRICT.decode(line))
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


def read_list(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, object) pairs of a .json, which may be larger than memory: of the list that it is,
    or of the one at `options.records` in it.

    Raises:
      DataError: there is no such list, or the file is malformed, so that its objects cannot be
        counted.
    """
    del span  # a list has no spans
    steps = record_steps(options.records)
    location = f"{path}: {options.records}" if steps else path

    def raw():
        with opened(path) as file:
            for number, item in enumerate(_Document(path, file, options).items(steps)):
                yield f"{location}[{number}]", item

    return parse_each(raw(), _as_object)


def record_steps(place: str) -> list[str]:
    """The steps of `data.records`, "a.b" or "[].a": names of keys, and "[]" for each item of a
    list.

    Raises:
      DataError: it is no such path.
    """
    if not place:
        return []
    if not re.fullmatch(r"(?:\[\]|[^.\[\]]+)(?:\.[^.\[\]]+|\[\])*", place):
        raise DataError(
            f"data.records={place!r:.80} is no path into a document; write 'tickets', "
            "'result.tickets', or '[].tickets' for a list of pages"
        )
    return re.findall(r"\[\]|[^.\[\]]+", place)


def starts_list(path: str) -> bool:
    """Whether a .json is one list, by its first character that is not blank."""
    with opened(path) as file:
        return _Document(path, file, ReadOptions()).first() == "["


class NoSuchPlace(DataError):
    """The error for a document without the place of the records."""


class _Document:
    """Reads the items of a list in a JSON document one by one, holding little more text than one
    item."""

    def __init__(self, path: str, file, options: ReadOptions):
        self._path, self._file, self._options = path, file, options
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the first character of _text

    def _more(self) -> None:
        """Drops the text that was read, and reads as much again as is left, so that retries cost
        little in all."""
        line, column = self._place(self._at)
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        self._line, self._column, self._at, self._ended = line, column, 0, not data
        self._text = rest + self._decoder.decode(data, final=self._ended)

    def _place(self, at: int) -> tuple[int, int]:
        """(line, column) of a position in _text."""
        breaks = self._text.count("\n", 0, at)
        if breaks:
            return self._line + breaks, at - self._text.rindex("\n", 0, at)
        return self._line, self._column + at

    def _next(self) -> str:
        """Moves _at to the next character that is not blank and returns it; "" at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank is not None  # it matches an empty text
            self._at = blank.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def first(self) -> str:
        """The first character that is not blank; "" in a blank file."""
        return self._next()

    def items(self, steps: list[str]) -> Iterator:
        """The items of the list at `steps` (`record_steps`); a DataError in place of a bad one."""
        if self._next():
            yield from self._walk(steps, steps)
        if self._next():
            raise self._broken("Extra data", self._at)

    def _walk(self, steps: list[str], path: list[str]) -> Iterator:
        """The items of the list at `steps` in the value that begins at _at."""
        first, setting = self._next(), f"data.records={'.'.join(path).replace('.[]', '[]')}"
        if not steps or steps[0] == "[]":
            if first != "[" and path:
                raise self._misplaced(setting, "a list")
            if first != "[":
                raise self._no_list(first)
            for _ in self._elements():
                if steps:
                    yield from self._walk(steps[1:], path)
                else:
                    yield self._item()
            return
        if first != "{":
            raise self._misplaced(setting, f"an object with the key {steps[0]!r}")
        keys = []
        for key in self._keys():
            keys.append(key)
            if key == steps[0]:
                yield from self._walk(steps[1:], path)
            else:
                self._skip()
        if steps[0] not in keys:
            listed = ", ".join(repr(key)[:40] for key in keys[:12]) or "none"
            hint = did_you_mean(nearest(steps[0], keys))
            raise NoSuchPlace(
                f"{self._path}: {setting}: there is no key {steps[0]!r}; the keys there: {listed}"
                f"{hint}"
            )

    def _elements(self) -> Iterator[None]:
        """Stops at each element of the list that begins at _at; the caller reads it."""
        self._at += 1
        if self._next() != "]":
            while True:
                self._next()
                yield
                first = self._next()
                if first == "]":
                    break
                if first != ",":
                    raise self._broken("Expecting ',' delimiter", self._at)
                self._at += 1
        self._at += 1

    def _keys(self) -> Iterator[str]:
        """Stops at the value of each key of the object that begins at _at; the caller reads it."""
        self._at += 1
        seen = set()
        if self._next() != "}":
            while True:
                if self._next() != '"':
                    message = "Expecting property name enclosed in double quotes"
                    raise self._broken(message, self._at)
                key = self._item()
                if isinstance(key, DataError) or key in seen:
                    twice = f"the key {key!r:.60} is there twice in one object; keep one of them"
                    raise DataError(f"{self._path}: {key if isinstance(key, DataError) else twice}")
                seen.add(key)
                if self._next() != ":":
                    raise self._broken("Expecting ':' delimiter", self._at)
                self._at += 1
                self._next()
                yield key
                first = self._next()
                if first == "}":
                    break
                if first != ",":
                    raise self._broken("Expecting ',' delimiter", self._at)
                self._at += 1
        self._at += 1

    def _skip(self, depth: int = 0) -> None:
        """Reads over the value at _at; down to a depth, and a list item by item, so that it may be
        larger than memory."""
        first = self._next()
        if first == "{" and depth < _DEPTH:
            for _ in self._keys():
                self._skip(depth + 1)
        elif first == "[":
            for _ in self._elements():
                self._item()
        else:
            self._item()

    def _misplaced(self, setting: str, wanted: str) -> DataError:
        line, _ = self._place(self._at)
        kind = {"{": "an object", "[": "a list", '"': "a text"}.get(self._next(), "a single value")
        hint = "; for a list of pages begin with '[].'" if kind == "a list" else ""
        return DataError(f"{self._path}:{line}: {setting}: {kind} where {wanted} should be{hint}")

    def _item(self):
        limit = self._options.max_bytes
        while True:
            error = None
            try:
                item, end = self._parse()
            except json.JSONDecodeError as malformed:
                error, end = malformed, len(self._text)
            except (ValueError, RecursionError) as unreadable:
                raise DataError(f"{self._path}: {_unreadable(unreadable)}") from None
            cut = end == len(self._text) and not self._ended and not _is_final(error, end)
            if cut and end - self._at <= limit:
                self._more()
                continue
            if cut:
                line, _ = self._place(self._at)
                raise DataError(f"{self._path}:{line}: {self._options.too_large()}")
            if error:
                raise self._broken(error.msg, error.pos)
            text, self._at = self._text[self._at : end], end
            try:
                check_escaped(text)
            except DataError as bad:
                return bad
            size = len(text) if text.isascii() else len(text.encode("utf-8"))
            return self._options.too_large() if size > limit else item

    def _parse(self):
        """(item, end) of the item that begins at _at; a DataError in place of a bad item."""
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
        lists = []
        with contextlib.suppress(DataError):  # of a file that is malformed later
            for key in self._keys():
                lists += [key] if self._next() == "[" else []
                self._skip()
            lists = [] if self._next() else lists  # another object follows: one a line
        named = " or ".join(lists[:3])
        inside = f"; if they are inside it, type --config.data.records={named}" if lists else ""
        return DataError(
            f"{self._path}: a JSON dict; a .json that is read is one list of objects: [{{...}}, "
            f"...]. If it is one object a line, name it {stem}l{gz}{inside}"
        )


def _is_final(error: json.JSONDecodeError | None, end: int) -> bool:
    """Whether more text would not change a parser's error on text that ends at `end`: it stopped
    earlier, and not because a closing quotation mark is missing."""
    if error is None:
        return False
    return error.pos < end - 12 and not error.msg.startswith("Unterminated")
