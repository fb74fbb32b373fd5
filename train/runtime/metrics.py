"""Files that a run writes besides checkpoints: metrics.jsonl, samples.jsonl, those of trackers.

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
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from data.atomic import is_remote
from ranges import ConfigError
from train.runtime import outputs, strict_json
from train.runtime.records import truncate_jsonl
from train.runtime.trackers.registry import DEFAULT, TrackingConfig
from train.runtime.trackers.tracking import Tracking

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


class _Mirror:
    """A folder on this machine whose files are uploaded to one in an object store.

    Args:
      start: the step from which the run continues.

    Attributes:
      local: the folder, which starts with the logs that are in the store. names: {log: its name
        here}; another one if the log in the store cannot be read, which is not replaced then.
    """

    def __init__(self, remote: epath.Path, start: int):
        self._remote, self._sizes = remote, {}
        self._folder = tempfile.TemporaryDirectory(prefix="seedpod-")
        self.local, self.names = Path(self._folder.name), dict[str, str]()
        for name in LOGS:
            self.names[name] = name
            content, reason = outputs.tried(name, self._download, remote / name)
            if reason:
                self.names[name] = f"{name.removesuffix('.jsonl')}-from-{start}.jsonl"
                instead = f"new records go to {self.names[name]}"
                outputs.failed(name, reason, instead, 0, "read")
            elif content:
                (self.local / name).write_bytes(content)

    @staticmethod
    def _download(path: epath.Path) -> bytes:
        return path.read_bytes() if path.exists() else b""

    def upload(self) -> None:
        """Uploads every file that has grown, whole."""
        for path in sorted(self.local.rglob("*")):
            if path.is_dir() or self._sizes.get(path) == path.stat().st_size:
                continue
            content, target = path.read_bytes(), self._remote / path.relative_to(self.local)
            # Besides OSErrors, the store's library raises errors of its own.
            _, reason = outputs.tried(path.name, self._upload, target, content)
            if reason:
                outputs.failed(path.name, reason, "it is uploaded with the next checkpoint")
            else:
                self._sizes[path] = len(content)

    @staticmethod
    def _upload(target: epath.Path, content: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def close(self) -> None:
        self.upload()
        self._folder.cleanup()


class Metrics:
    """The files of one run.

    Args:
      start: the step that the run resumes from; records after it are dropped. steps: the run's last
        step. writes: whether this process writes. trackers, tracking: of the settings.

    Attributes:
      finished: whether the run has ended, at its last step or by `evaluate.patience`.
      evaluated: whether metrics.jsonl has the record of an evaluation at `start` in which nothing
        failed; else what it has is dropped, since the evaluation is repeated. Only a process that
        writes knows.
      evaluations: the records of evaluations so far.
      first, last: the metrics of the run's first evaluation and of its last; empty before it.
    """

    def __init__(
        self, workdir: epath.PathLike, start: int, steps: int, writes: bool = True,
        trackers: Sequence[str] = DEFAULT, tracking: TrackingConfig | None = None,
    ):  # fmt: skip
        self._writes, self._started = writes, time.time()
        self.finished = start == steps
        self.first, self.last = dict[str, float](), dict[str, float]()
        self.evaluated, self.evaluations = False, list[dict]()
        if not writes:
            return
        workdir, self._mirror = epath.Path(workdir), None
        folder, names = workdir, {log: log for log in LOGS}
        if is_remote(workdir):
            self._mirror = _Mirror(workdir, start)
            folder, names = epath.Path(self._mirror.local), self._mirror.names
        self._steps, self._paths = steps, [folder / names[log] for log in LOGS]
        last = start or -1  # from step 0, the first evaluation is repeated
        self.evaluated = any(
            record["step"] == last and not record.get("failed")
            for record in _evaluations(truncate_jsonl(self._paths[0], last))
        )
        records = self._open(last, self.evaluated)
        if self.finished and self.evaluated:
            trackers = ()  # there is nothing to come
        self._tracking = Tracking(trackers, tracking or TrackingConfig(), folder, workdir, start)
        self.finished |= any(r.get("kind") == "ended" and r["step"] == start for r in records)
        self._before = records[-1].get("elapsed_seconds", 0.0) if records else 0.0

    def _open(self, last: int, evaluated: bool) -> list[dict]:
        """Opens the files; returns the metrics up to step `last`, which stay, those of its
        evaluation only if `evaluated`."""
        metrics, samples = self._paths
        records = truncate_jsonl(metrics, last, evaluated)
        truncate_jsonl(samples, last, evaluated)
        self.evaluations = _evaluations(records)
        measured = [numbers for r in self.evaluations if (numbers := _numbers(r))]
        self.first, self.last = (measured[0], measured[-1]) if measured else ({}, {})
        self._jsonl, self._samples = (outputs.Records(path) for path in self._paths)
        return records

    def go_back(self, step: int) -> None:
        """Drops the records after `step`, which the run takes again; its evaluation stays as it
        is."""
        self.finished = False
        if self._writes:
            self._close_files()
            self._open(step, evaluated=True)
            self._tracking.go_back(step)

    def elapsed(self) -> float:
        """Seconds of work on this run; interrupted processes count up to their last record."""
        return self._before + time.time() - self._started

    def write(
        self,
        step: int,
        kind: str,
        values: dict[str, float],
        failed: Mapping[str, str] | None = None,
    ) -> None:
        """Adds a record to metrics.jsonl, unbuffered, and its values to the trackers. Values that
        are not finite are null in the file, and counted there as `not_finite`.

        Args:
          failed: {evaluation: the reason why it has no values}.
        """
        if not self._writes:
            return
        if kind == "eval" and values:
            self.first, self.last = self.first or values, values
        record = {"step": step, "kind": kind, "elapsed_seconds": round(self.elapsed(), 3), **values}
        if count := sum(not math.isfinite(value) for value in values.values()):
            record["not_finite"] = count
        if failed:
            record["failed"] = dict(failed)
        self._jsonl.write(f"{strict_json.dumps(record)}\n".encode())
        self._tracking.write(step, {f"{kind}/{name}": value for name, value in values.items()})
        self.finished = step == self._steps

    def note(self, step: int, kind: str, values: dict) -> None:
        """Adds a record of other JSON values than numbers to metrics.jsonl alone."""
        if self._writes:
            record = {"step": step, "kind": kind, "elapsed_seconds": round(self.elapsed(), 3)}
            self._jsonl.write(f"{strict_json.dumps(record | values)}\n".encode())

    def write_settings(self, settings: dict) -> None:
        """Adds settings, {dotted name: value}, to the trackers."""
        if self._writes:
            self._tracking.write_settings(settings)

    def write_samples(self, step: int, samples: list[dict]) -> None:
        """Adds records of text to samples.jsonl and the trackers."""
        if self._writes:
            self._tracking.write_samples(step, samples)
            for sample in samples:
                line = strict_json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n"
                self._samples.write(line.encode(errors="replace"))

    def sync(self) -> None:
        """Flushes to disk and uploads, before a checkpoint: records up to it must outlive a crash.
        A mounted bucket receives the lines of an open file only on this."""
        outputs.write_again()
        if self._writes:
            self._jsonl.sync()
            self._samples.sync()
            if self._mirror:
                self._mirror.upload()

    def close(self) -> None:
        if not self._writes:
            return
        outputs.write_again()
        self._tracking.close(self.finished)
        self._close_files()
        if self._mirror:
            self._mirror.close()
        outputs.report()

    def _close_files(self) -> None:
        for records in (self._jsonl, self._samples):
            records.close()


def _evaluations(records: list[dict]) -> list[dict]:
    return [record for record in records if record.get("kind") == "eval"]


def _numbers(record: dict) -> dict[str, float]:
    """The metrics of a record, without what is no number."""
    others = ("step", "kind", "elapsed_seconds", "not_finite", "failed")
    return {
        name: value
        for name, value in record.items()
        if name not in others and isinstance(value, int | float) and not isinstance(value, bool)
    }
