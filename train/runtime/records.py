"""The records of metrics.jsonl and samples.jsonl, read from files that may be damaged.

A damaged line is named and counted, and costs no other line. A run that resumes moves it to a file
beside the log, whose name ends in `.damaged`.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, NotRequired, TypedDict

import msgspec
from etils import epath

from data.atomic import write_atomically
from data.errors import DataError
from data.read import json_files
from train.runtime import outputs

MOST_BYTES = 16 << 20  # of a line
MOST_NAMED = 5  # damaged lines in a message


class Record(TypedDict):
    """The entries that every record of metrics.jsonl and samples.jsonl has."""

    step: Annotated[int, msgspec.Meta(ge=0)]
    kind: NotRequired[str]
    elapsed_seconds: NotRequired[Annotated[float, msgspec.Meta(ge=0)]]
    failed: NotRequired[dict[str, str]]


class Log(NamedTuple):
    """The content of a file of records.

    Attributes:
      lines: (line without its end, record) pairs. damaged: (line number, line, fault) triples.
    """

    lines: list[tuple[bytes, dict]]
    damaged: list[tuple[int, bytes, str]]


def read_log(path: epath.PathLike) -> Log:
    """The content of a file, without a record at its end that was not written whole; empty if there
    is no file, or it cannot be read."""
    path, log = epath.Path(path), Log([], [])
    try:
        if not path.exists() or not path.stat().length:  # a device has no length, and no end
            return log
        pieces = path.read_bytes().split(b"\n")
    except OSError as error:
        outputs.failed(path.name, error, "its records so far are not known", 0, "read")
        return log
    for number, line in enumerate(pieces, 1):
        line = line.strip(b"\0\r ")  # a machine that lost power may leave zeros
        if not line:
            continue
        try:
            if len(line) > MOST_BYTES:
                raise DataError(f"{path}:{number} has {len(line):,} bytes")
            log.lines.append((line, json_files.parse(line, f"{path}:{number}", Record)))
        except DataError as error:
            if number < len(pieces) or not line.startswith(b"{"):
                log.damaged.append((number, line, str(error)))
    return log


def truncate_jsonl(path: epath.PathLike, last_step: int, evaluated: bool = True) -> list[dict]:
    """Removes records after `last_step`, without `evaluated` also those of the evaluation after it,
    and an incomplete last line, and sets damaged lines aside; returns the other records."""
    path = epath.Path(path)
    log = read_log(path)

    def stays(record) -> bool:
        trained = evaluated or record.get("kind", "eval") != "eval"  # samples have no kind
        return record["step"] < last_step or (record["step"] == last_step and trained)

    staying = [(line, record) for line, record in log.lines if stays(record)]
    records = [record for _, record in staying]
    content = b"".join(line + b"\n" for line, _ in staying)
    try:
        if not (log.lines or log.damaged) or path.read_bytes() == content:
            return records
        if log.damaged:
            _set_aside(path, log.damaged)
        write_atomically(path, content)
    except OSError as error:
        outputs.failed(path.name, error, "it keeps the records of steps that are repeated")
    return records


def _set_aside(path: epath.Path, damaged: list[tuple[int, bytes, str]]) -> None:
    """Adds damaged lines to the file beside a log, and says so.

    Raises:
      OSError: they cannot be written.
    """
    aside = path.with_name(f"{path.name}.damaged")
    before = aside.read_bytes() if aside.exists() else b""
    write_atomically(aside, before + b"".join(line + b"\n" for _, line, _ in damaged))
    outputs.say(f"warning: {_described(path, damaged)}; set aside in {aside.name}")


def _described(path: epath.Path, damaged: list[tuple[int, bytes, str]]) -> str:
    numbers = ", ".join(str(number) for number, _, _ in damaged[:MOST_NAMED])
    more = ", …" if len(damaged) > MOST_NAMED else ""
    lines = f"line{'s' * (len(damaged) > 1)} {numbers}{more}"
    count = f"{len(damaged)} damaged line{'s' * (len(damaged) > 1)}"
    return f"{path.name} has {count} ({lines}; the first: {damaged[0][2]:.300})"


def read_metrics(workdir: epath.PathLike, kind: str) -> list[dict]:
    """Records of one kind (`train`, `eval`) of a workdir, in order of steps."""
    records = read_records(epath.Path(workdir) / "metrics.jsonl")
    return [record for record in records if record.get("kind") == kind]


def read_records(path: epath.PathLike) -> list[dict]:
    """The records of metrics.jsonl or samples.jsonl; damaged lines are named and left out."""
    path, log = epath.Path(path), read_log(path)
    if log.damaged:
        outputs.say(f"warning: {_described(path, log.damaged)}; left out")
    return [record for _, record in log.lines]
