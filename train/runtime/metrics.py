"""Files that a run writes besides checkpoints: metrics.jsonl, TensorBoard, samples.jsonl.

Only process 0 writes. Records of steps that a resumed run repeats are dropped first, so that every
step is once in metrics.jsonl. An object store (gs://…) cannot append: for it the files are written
on this machine, and uploaded whole at every checkpoint and at the end.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import msgspec
from etils import epath

from data.atomic import is_remote, write_atomically
from data.errors import DataError
from data.read import json_files
from ranges import ConfigError
from train.runtime import outputs, strict_json

LOGS = ("metrics.jsonl", "samples.jsonl")


def quiet_to_file(path: str) -> str:
    """Sends the log messages of libraries, C++ ones included, to a file instead of the console.

    Python's own stderr stays on the terminal, for tracebacks. Returns the file's path, a
    temporary one if `path` cannot be written.

    Raises:
      ConfigError: XLA_FLAGS that XLA does not accept.
    """
    _check_xla_flags()
    log, path = outputs.open_log(path)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log.fileno(), 2)
    sys.stderr = outputs.Stream(terminal, "stderr", lasting=True)
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    return path


def _check_xla_flags() -> None:
    """Refuses XLA_FLAGS that XLA does not accept. XLA would end this process, with the reason in
    the log alone, so it reads them first in a fork."""
    flags = os.environ.get("XLA_FLAGS")
    if not flags:
        return
    from jaxlib import xla_client

    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.dup2(writing, 2)
            xla_client.CompileOptions()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, errors="replace") as pipe:
        said = pipe.readline()
    if os.waitpid(child, 0)[1]:
        reason = said.partition("] ")[2].strip().rstrip(".") or "it ends without a reason"
        raise ConfigError(
            f"XLA refuses XLA_FLAGS={shlex.quote(flags)}: {reason}. Correct or unset XLA_FLAGS"
        )


class Record(TypedDict):
    """The entries that every record of metrics.jsonl and samples.jsonl has."""

    step: Annotated[int, msgspec.Meta(ge=0)]
    kind: NotRequired[str]
    elapsed_seconds: NotRequired[Annotated[float, msgspec.Meta(ge=0)]]


def _records(path: epath.Path) -> Iterator[tuple[bytes, dict]]:
    """(line, record) pairs of a file of records, without an incomplete last line; a damaged line is
    named and left out."""
    if not path.exists() or not path.stat().length:  # a device has no length, and no end
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json_files.parse(line, f"{path}:{number}", Record)
        except DataError as error:
            print(f"warning: {error}; the line is left out", file=sys.stderr)
        else:
            yield line, record


def truncate_jsonl(path: epath.PathLike, last_step: int, evaluated: bool = True) -> list[dict]:
    """Removes records after `last_step`, without `evaluated` also those of the evaluation after it,
    and an incomplete last line; returns the others."""
    path = epath.Path(path)

    def stays(record) -> bool:
        trained = evaluated or record.get("kind", "eval") != "eval"  # samples have no kind
        return record["step"] < last_step or (record["step"] == last_step and trained)

    lines = [(line, record) for line, record in _records(path) if stays(record)]
    if not path.exists() or not path.stat().length:
        return []
    try:
        write_atomically(path, b"".join(line for line, _ in lines))
    except OSError as error:
        outputs.failed(path.name, error, "it keeps the records of steps that are repeated")
    return [record for _, record in lines]


def read_metrics(workdir: epath.PathLike, kind: str) -> list[dict]:
    """Records of one kind (`train`, `eval`) of a workdir, in order of steps."""
    records = read_records(epath.Path(workdir) / "metrics.jsonl")
    return [record for record in records if record.get("kind") == kind]


def read_records(path: epath.Path) -> list[dict]:
    """The records of metrics.jsonl or samples.jsonl; a damaged line is named and left out."""
    return [record for _, record in _records(path)]


class _Mirror:
    """A folder on this machine whose files are uploaded to one in an object store.

    Attributes:
      local: the folder, which starts with the logs that are in the store.
    """

    def __init__(self, remote):
        self._remote, self._sizes = epath.Path(remote), {}
        self._folder = tempfile.TemporaryDirectory(prefix="seedpod-")
        self.local = Path(self._folder.name)
        for name in LOGS:
            if (self._remote / name).exists():
                (self.local / name).write_bytes((self._remote / name).read_bytes())

    def upload(self) -> None:
        """Uploads every file that has grown, whole."""
        for path in sorted(self.local.rglob("*")):
            if path.is_dir() or self._sizes.get(path) == path.stat().st_size:
                continue
            content = path.read_bytes()
            target = self._remote / path.relative_to(self.local)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except OSError as error:
                outputs.failed(path.name, error, "it is uploaded with the next checkpoint")
            else:
                self._sizes[path] = len(content)

    def close(self) -> None:
        self.upload()
        self._folder.cleanup()


class Metrics:
    """The files of one run.

    Args:
      start: the step that the run resumes from; records after it are dropped. steps: the run's last
        step. writes: whether this process writes. evaluated: whether the run has been evaluated at
        `start`, as it is saved; records of an evaluation that is repeated are dropped too.

    Attributes:
      first, last: the metrics of the run's first evaluation and of its last; empty before it.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        start: int,
        steps: int,
        writes: bool = True,
        evaluated: bool = True,
    ):
        self._writes, self._started = writes, time.time()
        self.first, self.last = dict[str, float](), dict[str, float]()
        if not writes:
            return
        workdir, self._mirror = epath.Path(workdir), None
        name = workdir.name
        if is_remote(workdir):
            self._mirror = _Mirror(workdir)
            workdir = self._mirror.local
        self._workdir, self._name, self._steps = workdir, name, steps
        # A run from step 0 repeats its first evaluation too.
        records = self._open(start, start or -1, evaluated)
        self._before = records[-1].get("elapsed_seconds", 0.0) if records else 0.0

    def _open(self, start: int, last: int, evaluated: bool) -> list[dict]:
        """Opens the files for the steps after `start`; returns the metrics up to step `last`, which
        are kept."""
        records = truncate_jsonl(self._workdir / "metrics.jsonl", last, evaluated)
        truncate_jsonl(self._workdir / "samples.jsonl", last, evaluated)
        evaluations = [record for record in records if record.get("kind") == "eval"]
        self.first, self.last = (evaluations[0], evaluations[-1]) if evaluations else ({}, {})
        self._jsonl = outputs.Records(self._workdir / "metrics.jsonl")
        self._samples = outputs.Records(self._workdir / "samples.jsonl")
        from train.runtime.trackers.tensorboard import EventFile  # slow to import

        self._events = EventFile(self._workdir, self._name, start)
        self._last = start
        return records

    def go_back(self, step: int) -> None:
        """Drops the records after `step`, which the run takes again."""
        if self._writes:
            self._close_files()
            self._open(step, step, evaluated=True)

    def elapsed(self) -> float:
        """Seconds of work on this run; interrupted processes count up to their last record."""
        return self._before + time.time() - self._started

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Adds a record to metrics.jsonl and TensorBoard, unbuffered. Values that are not finite
        are null in the file, and counted there as `not_finite`."""
        if not self._writes:
            return
        if kind == "eval":
            self.first, self.last = self.first or values, values
        record = {"step": step, "kind": kind, "elapsed_seconds": round(self.elapsed(), 3), **values}
        if count := sum(not math.isfinite(value) for value in values.values()):
            record["not_finite"] = count
        self._jsonl.write(f"{strict_json.dumps(record)}\n".encode())
        self._events.write(step, {f"{kind}/{name}": value for name, value in values.items()})
        self._last = step

    def note(self, step: int, kind: str, values: dict) -> None:
        """Adds a record of other JSON values than numbers to metrics.jsonl alone."""
        if self._writes:
            record = {"step": step, "kind": kind, "elapsed_seconds": round(self.elapsed(), 3)}
            self._jsonl.write(f"{strict_json.dumps(record | values)}\n".encode())

    def write_settings(self, settings: dict) -> None:
        """Adds settings, {dotted name: value}, to TensorBoard."""
        if self._writes:
            self._events.write_settings(settings)

    def write_samples(self, step: int, samples: list[dict]) -> None:
        """Adds records of text to samples.jsonl and TensorBoard."""
        if self._writes:
            self._events.write_samples(step, samples)
            for sample in samples:
                line = strict_json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n"
                self._samples.write(line.encode(errors="replace"))

    def sync(self) -> None:
        """Flushes to disk and uploads, before a checkpoint: records up to it must outlive a crash.
        A mounted bucket receives the lines of an open file only on this."""
        if self._writes:
            self._jsonl.sync()
            self._samples.sync()
            if self._mirror:
                self._mirror.upload()

    def close(self) -> None:
        if not self._writes:
            return
        self._close_files()
        if self._mirror:
            self._mirror.close()
        outputs.report()

    def _close_files(self) -> None:
        self._events.close(finished=self._last == self._steps)
        for records in (self._jsonl, self._samples):
            records.close()
