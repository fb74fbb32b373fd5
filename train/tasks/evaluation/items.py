"""The items of a task on disk: a line of items.jsonl for each document, appended as it is answered.

    {"id": 7, "document": {…}, "request": {…}, "response": […], "outcome": {…}, "seconds": 0.01}

`id` counts the documents from 0. The document, the request and the response are whole, so that
outcomes and metrics can be computed again from the file alone. `seconds` is the item's share of the
time since the line before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

import msgspec
from etils import epath

from data.atomic import is_remote, write_atomically
from data.errors import DataError
from data.read import json_files
from train.runtime import strict_json
from train.tasks.base import Answer, Document, Likelihoods, Outcome, Request, Response, Scored

NAME = "items.jsonl"
UPLOAD_EVERY = 30.0  # seconds between uploads to an object store, which cannot append


class Item(NamedTuple):
    """An item that is answered."""

    document: Document
    request: Request
    response: Response
    outcome: Outcome


class _Line(TypedDict):
    """The entries of a line that are read again."""

    id: int
    response: list[dict[str, Any]]
    seconds: float


class Answered:
    """The answered items of a task, in memory.

    Attributes:
      responses: {id: response}. seconds: {id: the item's share of the time}.
    """

    def __init__(self):
        self.responses = dict[int, Response]()
        self.seconds = dict[int, float]()
        self.begin()

    def begin(self) -> None:
        """Starts the clock of the items that follow."""
        self._clock = time.monotonic()

    def add(self, number: int, item: Item) -> None:
        now = time.monotonic()
        self.responses[number] = item.response
        self.seconds[number] = round(now - self._clock, 6)
        self._clock = now

    def finish(self, items: Sequence[Item]) -> None:
        """Ends a task all of whose items are answered."""


class Stored(Answered):
    """The answered items of a task, in its folder too.

    Args:
      folder: its lines of an earlier process are read.

    Attributes:
      damaged: lines that cannot be read, whose items are answered again.

    Raises:
      OSError: the file cannot be read or written.
    """

    def __init__(self, folder: epath.PathLike):
        super().__init__()
        self._path = epath.Path(folder) / NAME
        self._lines = dict[int, bytes]()  # of a file in an object store
        self.damaged = 0
        if self._path.exists():
            self._read()
        self._uploaded = time.monotonic()

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1  # a process that was killed may leave a part of a line
        if whole < len(content) and not is_remote(self._path):
            os.truncate(self._path, whole)
        for line in content[:whole].splitlines():
            try:
                item = json_files.parse(line, NAME, _Line)
                response = _response(item["response"])
            except (DataError, KeyError, msgspec.ValidationError):
                self.damaged += 1
                continue
            number = item["id"]
            self.responses[number], self.seconds[number] = response, item["seconds"]
            if is_remote(self._path):
                self._lines[number] = line

    def add(self, number: int, item: Item) -> None:
        super().add(number, item)
        line = self._line(number, item)
        if not is_remote(self._path):
            # One call, so that a line is never mixed with that of another process.
            with open(self._path, "ab", buffering=0) as file:
                file.write(line + b"\n")
            return
        self._lines[number] = line
        if self._clock - self._uploaded > UPLOAD_EVERY:
            self._uploaded = self._clock
            self._write(self._lines[number] for number in sorted(self._lines))

    def finish(self, items: Sequence[Item]) -> None:
        """Writes the file of a task that is answered: a line for each item, in order."""
        self._write(self._line(number, item) for number, item in enumerate(items))

    def _line(self, number: int, item: Item) -> bytes:
        return dumps({
            "id": number, "document": dict(item.document), "request": describe(item.request),
            "response": [part._asdict() for part in item.response], "outcome": dict(item.outcome),
            "seconds": self.seconds[number],
        })  # fmt: skip

    def _write(self, lines: Iterable[bytes]) -> None:
        write_atomically(self._path, b"".join(line + b"\n" for line in lines))


def dumps(value: Any) -> bytes:
    """A value as a line of JSON. Values that JSON does not have, as those of TFDS, are texts."""
    text = strict_json.dumps(value, ensure_ascii=False, default=str)
    return text.encode(errors="replace")


def _response(parts: list[dict[str, Any]]) -> Response:
    """A response from its JSON.

    Raises:
      KeyError, msgspec.ValidationError: it is none.
    """
    kind: Any = Answer if parts and "text" in parts[0] else Scored
    lists = [[part[field] for field in kind._fields] for part in parts]
    return msgspec.convert(lists, tuple[kind, ...])


def describe(request: Request) -> dict[str, Any]:
    """A request as JSON; the context of several continuations is written once."""
    if not isinstance(request, Likelihoods):
        return dataclasses.asdict(request)
    contexts = [continuation.context for continuation in request.continuations]
    texts = [continuation.text for continuation in request.continuations]
    same = all(context == contexts[0] for context in contexts)
    return {"context": contexts[0] if same else contexts, "continuations": texts}


def fingerprint(values: Sequence[Any]) -> str:
    """A hash of JSON values, 16 hex digits."""
    total = hashlib.sha256()
    for value in values:
        total.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return total.hexdigest()[:16]
