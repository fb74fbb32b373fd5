"""The parts that all readers share: opening a file, options, and the values of a record."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from etils import epath

from data.errors import DataError
from data.read.paths import is_remote

MAX_RECORD_BYTES = 64 << 20
# Records in one part when a corpus is prepared, for formats whose records are numbered.
SPAN_RECORDS = 50_000
PIECE_BYTES = 1 << 20  # read at a time of what is skipped, or may be too large
# A gzip that unpacks to more than BOMB_BYTES, and to BOMB_RATIO times its size, is refused: text
# shrinks to a third or a tenth, and the format cannot do better than 1032.
BOMB_BYTES, BOMB_RATIO = 4 << 20, 200


class Span(NamedTuple):
    """A part of a file: [start, stop) in bytes or in records. `line`: the number of its first
    line."""

    start: int
    stop: int
    line: int = 1


class ReadOptions(NamedTuple):
    """Options for reading the records of a source.

    Attributes:
      fields: the names of the fields that are used; None uses all. Formats with columns decode no
        others.
      max_bytes: the largest record, in bytes.
      records: the place of the list of records in a .json, "" for the document itself.
      counts: counts what a reader leaves out, by what it is; None counts nothing.
    """

    fields: frozenset[str] | None = None
    max_bytes: int = MAX_RECORD_BYTES
    records: str = ""
    counts: Counter | None = None

    def uses(self, name: str) -> bool:
        """Whether a field is used."""
        return self.fields is None or name in self.fields

    def leave_out(self, name: str) -> None:
        """Counts something that is left out."""
        if self.counts is not None:
            self.counts[name] += 1

    def too_large(self, hint: str = "") -> DataError:
        """The error for a record of more than `max_bytes`."""
        return DataError(
            f"a record of more than {self.max_bytes:,} bytes{hint}. If that is right, raise the "
            "limit: --config.data.max_record_bytes=N",
            "too_large",
        )


# Files.


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """Opens a file in binary mode, buffered and unzipped; errors while reading become a DataError.

    Raises:
      DataError: it cannot be read, or its first bytes are those of another format.
    """
    try:
        with _open(path) as raw:
            file: io.BufferedReader[Any] = (
                raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, PIECE_BYTES)
            )
            kind = _kind_of(path, file)
            if path.endswith(".gz"):
                _check_gzip(path, file, kind)
                file = io.BufferedReader(_Unzipped(path, file), 1 << 17)
                if kind := _kind_of(path, file):
                    raise DataError(f"{path} holds a {kind[0]} inside of its gzip: unpack both")
            elif kind:
                raise DataError(f"{path} is a {kind[0]}: {kind[1]}")
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: broken gzip ({error}); was the download cut short? "
            f"Fetch or compress it again, and check with: gzip -t {path}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: str):
    try:
        return epath.Path(path).open("rb") if is_remote(path) else open(path, "rb")
    except ValueError as error:  # a NUL, or a lone surrogate
        raise DataError(f"{path!r} is not a valid file name: {error}") from error


# First bytes of files, with the kind and the remedy. No text begins like this: all except bzip2's
# and the pointer's contain control characters.
_GZIP = b"\x1f\x8b"
_KINDS = (
    (_GZIP, "gzip", "add .gz to its name, or unzip it with gunzip"),
    (b"BZh91AY&SY", "bzip2 file", "unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "xz file", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd file", "unpack it with unzstd"),
    (b"\x04\x22\x4d\x18", "lz4 file", "unpack it with unlz4"),
    (b"PK\x03\x04", "zip archive", "unpack it with unzip, and name the files in it"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it with 7z, and name the files in it"),
    (b"PAR1\x15", "Parquet file", "rename it to .parquet"),
    (b"ARROW1\0\0", "Arrow file", "save it as Parquet, or with `datasets`"),
    (b"version https://git-lfs.github.com/spec/", "Git LFS pointer", "fetch it with git lfs pull"),
)


def _kind_of(path: str, file: io.BufferedReader) -> tuple[str, str] | None:
    """(kind, remedy) of a file that holds no records, by its first bytes; else None."""
    head, parquet = file.peek(64), path.removesuffix(".gz").endswith(".parquet")
    kinds = ((name, remedy) for magic, name, remedy in _KINDS if head.startswith(magic))
    return next((kind for kind in kinds if not (parquet and kind[0] == "Parquet file")), None)


def _check_gzip(path: str, file: io.BufferedReader, kind) -> None:
    """Raises DataError if the ending .gz is wrong."""
    if not file.peek(2) or (kind and kind[0] == "gzip"):
        return
    what, remedy = kind or ("plain file", f"rename it to {path.removesuffix('.gz')}")
    raise DataError(f"{path} is a {what} and not a gzip, despite its name: {remedy}")


class _Unzipped(io.RawIOBase):
    """The content of a gzip; raises DataError where it is out of proportion to the file."""

    def __init__(self, path: str, raw: io.BufferedReader):
        self._path, self._raw, self._file = path, raw, gzip.GzipFile(fileobj=raw)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def readinto(self, buffer):
        count = self._file.readinto(buffer)
        size = self._file.tell()
        if size > BOMB_BYTES and size > BOMB_RATIO * self._raw.tell():
            raise DataError(
                f"{self._path} unpacks to more than {BOMB_RATIO} times its size, as no text does. "
                f"If that is right, unzip it first: gunzip {self._path}"
            )
        return count


def parse_each(
    pairs: Iterable[tuple[str, Any]], parse: Callable[[Any], dict | None]
) -> Iterator[tuple[str, dict | DataError]]:
    """Yields (location, parse(raw)) for (location, raw) pairs. A DataError, as raw or raised by
    `parse`, takes the record's place; a pair whose record is None (a blank line) is left out."""
    for location, raw in pairs:
        record = raw
        if not isinstance(raw, DataError):
            try:
                record = parse(raw)
            except DataError as error:
                record = error
        if record is not None:
            yield location, record


# Values.


def decode(raw: bytes) -> str:
    """UTF-8 bytes as text, without a byte order mark and with Unix line ends."""
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


def check_escaped(text: str) -> None:
    """Raises the error of `decode` for text that was decoded with `surrogateescape`."""
    if not text.isascii():
        decode(text.encode("utf-8", "surrogateescape"))


def plain(value: Any) -> Any:
    """A value of TFDS or Arrow as JSON represents it: NaN is None, and UTF-8 bytes are text.

    Other bytes stay bytes, and are an error (`templates.wrong_type`) only where they are used: an
    image beside its caption does no harm.

    Raises:
      DataError: a number is infinite.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return decode(value)
        except DataError:
            return value
    if isinstance(value, float):
        if math.isinf(value):
            raise not_finite(str(value))
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def not_finite(shown: str) -> DataError:
    """The error for a number that is not finite."""
    return DataError(
        f"the number {shown[:40]} is not finite; write null where a value is missing", "not_finite"
    )
