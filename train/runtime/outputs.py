"""What is not training never ends a run: closed pipes, full disks, logs that cannot be written,
trackers and evaluations that raise.

A failure is reported once on standard error, counted, and reported again at the end (`report`).
Text for a closed standard stream goes to the log, a log that cannot be opened is replaced by a
temporary file, records for a file wait in memory until they can be written, and whole files are
written with a later checkpoint. Checkpoints are not output: their failures raise.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from typing import IO, Any

from printable import escaped
from train.runtime import processes

# Records that may wait for a file: minutes to days of a run's metrics.
MOST_WAITING = 10_000

_failed: Counter[str] = Counter()  # {output: failures since the last report}
_reported: set[str] = set()
_unwritten: dict[str, tuple[Callable[[], None], str]] = {}  # {path: (its writer, what is lost)}


def failed(
    name: str, error: Exception | str, instead: str, count: int = 1, action: str = "written"
) -> None:
    """Counts a failure of the output `name`, and prints the first, with what happens `instead`.

    Args:
      error: or its reason. count: of failures. action: what cannot be done.
    """
    _failed[name] += count
    if name not in _reported:
        _reported.add(name)
        atexit.register(report)
        why = error if isinstance(error, str) else reason(error)
        say(f"warning: {name} cannot be {action} ({why}): {instead}")


def reason(error: BaseException) -> str:
    """The message of an error, without what the exception adds to it."""
    strerror = getattr(error, "strerror", None)
    return strerror or (str(error) or repr(error)).splitlines()[0]


def tried(name: str, function: Callable, *args: Any) -> tuple[Any, str]:
    """(function(*args), ""), or (None, the reason why it failed). For what is not training, such
    as an evaluation: whatever it raises is a reason, and its traceback goes to the log.

    A peer that is lost, and the request to stop, are no failures of `function`, and raised.
    """
    try:
        return function(*args), ""
    except processes.Stopped:
        raise
    # The only place that catches everything: evaluations, rewards and trackers run the code of
    # plugins and libraries, whose exceptions nobody can list, and the weights are intact.
    except Exception as error:
        if processes.is_lost_peer(error):
            raise
        logging.info("%s failed", name, exc_info=True)
        # A reference to the error would keep the arrays of its frames.
        return None, f"{type(error).__name__}: {reason(error):.500}"


def write_later(path: Any, write: Callable[[], None], lost: str) -> None:
    """Writes a file that training does not need, with `write()`; `write_again` repeats a call that
    raised an OSError.

    Args:
      lost: what does not work until it is written.
    """
    _unwritten[str(path)] = write, lost
    write_again([str(path)])


def write_again(paths: Iterable[str] = ()) -> None:
    """Writes the files of `write_later` that could not be written: all, or `paths`."""
    for path in list(paths or _unwritten):
        write, lost = _unwritten[path]
        try:
            write()
        except OSError as error:
            failed(path, error, f"{lost}; it is tried again with each checkpoint")
        else:
            del _unwritten[path]


def report() -> None:
    """Prints the number of failures of each output since the last report."""
    for name, count in _failed.items():
        if count:
            say(f"warning: {name} could not be written, {count} times in all")
    _failed.clear()


def say(text: str) -> None:
    """Prints a line on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):  # there may be no standard error
        print(escaped(text), file=sys.stderr, flush=True)


class Stream:
    """A text stream whose failures are counted instead of raised; after the first failure of a
    standard stream, its text goes to the log.

    Args:
      lasting: whether a failure is permanent, as of a closed pipe; else every write is tried.
    """

    def __init__(self, stream: IO[str], name: str, lasting: bool):
        self._stream, self._name, self._lasting, self._gone = stream, name, lasting, False

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._gone:
            self._lose(text)
        else:
            self._try(lambda: self._write(text), text)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if not self._gone:
            self._try(self._stream.flush, "")

    def _try(self, do, text: str) -> None:
        try:
            do()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._gone = self._lasting and not isinstance(error, BlockingIOError)
            instead = "its text goes to the log" if self._lasting else "the text is dropped"
            # A flush that fails permanently lost the buffer; else text is counted once.
            failed(self._name, error, instead, int(bool(text) != self._gone))
            if self._gone:
                self._drain()
                self._lose(text)

    def _drain(self) -> None:
        """Redirects the buffer to the null device, or Python would report it at exit."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def _lose(self, text: str) -> None:
        if text.strip():
            _failed[self._name] += 1
            logging.info("%s: %s", self._name, text.rstrip())


def guard() -> None:
    """Replaces the standard streams, so that a closed or full one does not end the process."""
    # A standard stream that is closed from the start would share its number with the next file.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Stream):
            setattr(sys, name, Stream(stream, name, lasting=True))
    _log_errors_of_callbacks()


def _log_errors_of_callbacks() -> None:
    """Sends errors that no code can catch to the log instead of the terminal: those of destructors,
    and of callbacks in threads of C++. A read or a save that fails leaves dozens in TensorStore."""
    shown = sys.excepthook

    def excepthook(kind, error, traceback):
        if threading.current_thread() is threading.main_thread():
            shown(kind, error, traceback)
        else:
            logging.error("error in a callback", exc_info=(kind, error, traceback))

    sys.excepthook = excepthook
    sys.unraisablehook = lambda found: logging.error(
        "error in %r: %r", found.object, found.exc_value
    )


def open_log(path: str) -> tuple[Stream, str]:
    """(text stream that appends to the log file, its path): `path`, or another file if that cannot
    be opened."""
    try:
        return Stream(open(path, "a", buffering=1), path, lasting=False), path
    except OSError as error:
        try:
            handle, other = tempfile.mkstemp(prefix="seedpod-", suffix=".log")
            log = open(handle, "w", buffering=1)  # noqa: SIM115
        except OSError:
            log, other = open(os.devnull, "w"), os.devnull  # noqa: SIM115
        failed(path, error, f"the log is {other}")
        return Stream(log, other, lasting=False), other


def append(path: str, text: str) -> bool:
    """Appends to a file; returns whether it could."""
    try:
        with open(path, "a") as file:
            file.write(text)
    except OSError as error:
        failed(path, error, "the text is dropped")
        return False
    return True


class Records:
    """A local file that grows by whole records, never by a part of one. Records that cannot be
    written wait in memory and are tried again with the next."""

    def __init__(self, path: str | os.PathLike):
        self._path, self._waiting = Path(path), list[bytes]()
        self._file: FileIO | None = None
        self._try(self._opened)

    def write(self, record: bytes) -> None:
        self._waiting.append(record)
        self._try(self._write)
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[0]
            _failed[self._path.name] += 1

    def sync(self) -> None:
        """Waits until everything that was written is on the disk."""

        def sync():
            self._write()
            if self._file:
                os.fsync(self._file.fileno())

        self._try(sync)

    def close(self) -> None:
        self.sync()
        _failed[self._path.name] += len(self._waiting)
        if self._file:
            self._try(self._file.close)

    def _try(self, do) -> None:
        try:
            do()
        except OSError as error:
            failed(self._path.name, error, "its records wait in memory", 0)

    def _opened(self) -> FileIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        return self._file

    def _write(self) -> None:
        if not self._waiting:
            return
        file = self._opened()
        size = os.fstat(file.fileno()).st_size
        left = memoryview(b"".join(self._waiting))
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
        self._waiting.clear()


def make_folder(path: Any, flag: str = "workdir") -> None:
    """Creates a folder of a run, unless it exists.

    Args:
      path: a `Path` or `epath.Path`. flag: the one that names it, for the message.

    Raises:
      ValueError: it cannot be created, as where a file has its path.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = reason(error)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            file = next(p for p in (path, *path.parents) if p.exists())
            why = f"{file} is a file"
        raise ValueError(f"{path} cannot be created: {why}. Give another --{flag}") from error
