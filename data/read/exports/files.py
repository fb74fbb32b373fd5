"""The files of an export, `zendesk:PATH`: a file, a glob, or a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from data.errors import DataError
from data.read import json_records, paths
from data.read.reading import ReadOptions

ENDINGS = (".json", ".jsonl")
# Files of people, which may be beside those of the conversations.
USERS = ("users.json", "users.jsonl", "users.json.gz", "users.jsonl.gz")


def place_of(name: str) -> str:
    """The path in a name such as `zendesk:PATH`.

    Raises:
      DataError: there is none.
    """
    prefix, _, path = name.partition(":")
    if not path:
        raise DataError(f"{name!r} names no files: write {prefix}:PATH, a file, a glob or a folder")
    return os.path.expanduser(path)


def ending_of(path: str) -> str:
    return os.path.splitext(os.path.basename(path).removesuffix(".gz"))[1]


def files_of(name: str) -> list[str]:
    """The JSON files of an export, sorted.

    Raises:
      DataError: there are none.
    """
    path = place_of(name)
    if not epath.Path(path).is_dir():
        return paths.expand(path)
    inside = [os.fspath(entry) for entry in paths.files_in(epath.Path(path))]
    files = [file for file in inside if ending_of(file) in ENDINGS]
    if not files:
        listed = ", ".join(os.path.basename(file) for file in inside[: paths.MOST_NAMES])
        held = f"it has {listed}" if inside else "it is empty"
        raise DataError(f"{path} holds no {' or '.join(ENDINGS)} (.gz of them too); {held}")
    return files


def identity(name: str, tfds_dir: str) -> list:
    """The files, with size and times of change."""
    del tfds_dir
    path = place_of(name)
    if epath.Path(path).is_dir():
        return paths.identity(path)
    files = paths.expand(path)
    beside = [os.path.join(os.path.dirname(file), name) for file in files for name in USERS]
    return [entry for file in dict.fromkeys(files + beside) for entry in paths.identity(file)]


def objects(path: str, key: str, options: ReadOptions) -> Iterator[tuple[str, Any]]:
    """(location, object) pairs of a .jsonl, of a .json that is a list, or of the list `key` in one;
    a DataError in place of a bad one."""
    if ending_of(path) == ".jsonl":
        return json_records.read_lines(path, None, options)
    if ending_of(path) != ".json":
        raise DataError(f"{path}: an export is read from {' or '.join(ENDINGS)} (.gz of them too)")
    records = "" if json_records.starts_list(path) else options.records or key
    return json_records.read_list(path, None, options._replace(records=records))


def author(id: Any, name: Any = "", email: Any = "", kind: Any = "") -> dict[str, str]:
    """The author of a message."""
    words = {"id": id, "name": name, "email": email, "kind": kind}
    return {key: "" if value is None else str(value) for key, value in words.items()}


def text_at(record: dict, key: str) -> str:
    """A text of a record, "" where it is null or absent.

    Raises:
      DataError: it is something else.
    """
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{key!r} should be a text, and is a {type(value).__name__}", "wrong_type")
    return value or ""


def list_at(record: dict, key: str) -> list[dict]:
    """The objects of a record's list; [] where it is null.

    Raises:
      DataError: it is absent, or something else.
    """
    if key not in record:
        listed = ", ".join(repr(name)[:40] for name in list(record)[:12])
        raise DataError(f"no {key!r} (the record has {listed})", "missing_field")
    value = [] if record[key] is None else record[key]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{key!r} should be a list of objects", "wrong_type")
    return value
