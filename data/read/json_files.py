"""JSON files of Seedpod and of open models, read with their structure checked.

A file may be truncated, edited by hand or damaged on disk; the error is then one line that names
the file and the place in it.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from etils import epath

from data.errors import DataError

MOST_BYTES = 256 << 20  # of a file; the largest known, tokenizers of open models, have 35 MB
_REMEDY = "Restore it, or download it again"


def parse(text: bytes | str, location: str, kind: Any = dict, remedy: str = _REMEDY) -> Any:
    """The JSON value of `text`, with NaN and Infinity as Python reads them.

    Args:
      location: its name in errors, such as a path or path:line.
      kind: the type that the value must have, as msgspec reads it: TypedDict, list[int], … Keys
        that a TypedDict does not name are kept.
      remedy: what to do where it is none, as an error's last sentence.

    Raises:
      DataError: the text is not UTF-8, not JSON, not of that type, or a placeholder for the file.
    """
    if isinstance(text, bytes):
        check_content(text, location)
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text)
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{location} is not of the form that it should have: {error!s:.300}. {remedy}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location} is not readable JSON ({error}). {remedy}") from None
    return value


def read(path: epath.Path, kind: Any = dict) -> Any:
    """The JSON value of the file `path` (epath.Path). Arguments and errors are those of `parse`;
    a file that cannot be opened is a DataError as well."""
    return parse(_content(path), str(path), kind)


def read_lines(path: epath.Path, kind: Any = dict) -> list[Any]:
    """The values of a file of JSON lines; the DataError for a damaged line names it."""
    lines = _content(path).split(b"\n")
    return [
        parse(line, f"{path}:{number}", kind)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _content(path: epath.Path) -> bytes:
    try:
        size = path.stat().length
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes, too many for such a file. {_REMEDY}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def check_content(start: bytes, location: Any) -> None:
    """Refuses the placeholders that downloads leave in a file's place.

    Args:
      start: the file's first 64 bytes, or more.

    Raises:
      DataError: it is empty, a pointer of Git LFS or git-annex, or a web page.
    """
    if not start:
        raise DataError(f"{location} is empty; download it again")
    if start.startswith((b"version https://git-lfs", b"/annex/objects/")):
        raise DataError(
            f"{location} is a pointer of Git LFS or git-annex, not the file itself; type "
            "`git lfs pull` (`git annex get .`) in its directory, or download it with `hf download`"
        )
    if start[:64].lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{location} is a web page; download the file again, logged in if it asks")
