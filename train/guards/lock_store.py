"""The lock files of a workdir, `lock.N`, on a file system or an object store."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import fsspec
from etils import epath

from ranges import ConfigError


class Store(Protocol):
    """The lock files of a workdir."""

    def numbers(self) -> list[int]:
        """N of every lock file."""

    def create(self, number: int, content: bytes) -> bool:
        """Creates a lock file; returns whether there was none."""

    def read(self, number: int) -> tuple[bytes, Any]:
        """(content, time of the last sign of life)."""

    def age(self, modified: Any) -> float:
        """Seconds from a time that `read` returned until now, by the clock of the store."""

    def renew(self, number: int, content: bytes) -> None:
        """Gives a sign of life."""

    def remove(self, number: int) -> None:
        """Removes a lock file, if it exists."""


class Files:
    """Locks on a file system."""

    def __init__(self, workdir: epath.PathLike):
        self._folder = Path(os.fspath(workdir))

    def _path(self, number: int) -> Path:
        return self._folder / f"lock.{number}"

    def numbers(self) -> list[int]:
        return _numbers(path.name for path in self._folder.glob("lock.*"))

    def create(self, number: int, content: bytes) -> bool:
        path = self._path(number)
        try:
            file = open(path, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError:
            return False
        try:
            with file:
                file.write(content)
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno == errno.ESTALE:  # of a mounted bucket, to which another was first
                return False
            path.unlink(missing_ok=True)
            raise
        return True

    def read(self, number: int) -> tuple[bytes, float]:
        with open(self._path(number), "rb") as file:  # on NFS, opening it brings its present time
            return file.read(), os.fstat(file.fileno()).st_mtime

    def age(self, modified: float) -> float:
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            return os.fstat(probe.fileno()).st_mtime - modified

    def renew(self, number: int, content: bytes) -> None:
        del content
        os.utime(self._path(number))

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)


class Objects:
    """Locks on an object store (gs://…)."""

    def __init__(self, workdir: epath.PathLike):
        try:
            self._fs, self._folder = fsspec.core.url_to_fs(os.fspath(workdir))
        except ImportError as error:
            raise ConfigError(f"{workdir}: {error}. Type: pip install gcsfs (for gs://)") from error

    def _path(self, number: int | str) -> str:
        return f"{self._folder}/lock.{number}"

    def numbers(self) -> list[int]:
        self._fs.invalidate_cache()
        return _numbers(path.rpartition("/")[2] for path in self._fs.glob(self._path("*")))

    def create(self, number: int, content: bytes) -> bool:
        try:
            self._fs.pipe_file(self._path(number), content, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, number: int) -> tuple[bytes, Any]:
        self._fs.invalidate_cache()
        path = self._path(number)
        return self._fs.cat_file(path), self._fs.modified(path)

    def age(self, modified: Any) -> float:
        probe = self._path(f"probe-{uuid.uuid4().hex}")
        self._fs.pipe_file(probe, b"")
        now = self._fs.modified(probe)
        self._fs.rm_file(probe)
        return (now - modified).total_seconds()

    def renew(self, number: int, content: bytes) -> None:
        self._fs.pipe_file(self._path(number), content)

    def remove(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(number))


def is_lock(name: str) -> bool:
    """Whether a file of a workdir has the name of a lock file."""
    start, _, end = name.partition(".")
    return start == "lock" and end.isdecimal()


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(int(name.partition(".")[2]) for name in names if is_lock(name))
