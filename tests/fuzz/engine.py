"""Runs damaged inputs one by one, and distinguishes refusals from faults.

An input may be accepted, or refused: an error that Seedpod's own code raises on purpose, with a
message of a few lines. Anything else is a finding: another exception, printed text with a
traceback, more time or memory than an input of a few kilobytes can need.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from train.rl.time_limit import time_limit

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 4 << 30  # bytes beyond those of a process with all modules loaded
REFUSALS = (ValueError, FileNotFoundError, FloatingPointError)
LINES, CHARACTERS = 12, 4000  # of a refusal


class Target(NamedTuple):
    """A reader of input.

    Attributes:
      prepare: (folder) -> good inputs, called once per process.
      attempt: (rng, good inputs, folder) -> None; damages one input and reads it.
      share: its part of the inputs, relative to other targets.
      seconds: time limit of one input.
    """

    name: str
    prepare: Callable
    attempt: Callable
    share: float = 1.0
    seconds: float = 10.0


class Finding(NamedTuple):
    """A fault.

    Attributes:
      number: of the input. fault: one line, equal for equal faults. detail: traceback or output.
    """

    target: str
    number: int
    fault: str
    detail: str


class _TooLong(BaseException):
    """An input took longer than its target allows."""


def limit_memory() -> None:
    """Bounds this process's address space, so that excessive use raises a MemoryError here and does
    not affect the machine."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], str]]:
    """Captures the output of Python and of libraries: yields () -> text."""
    with tempfile.TemporaryFile("w+") as file:
        saved = os.dup(1), os.dup(2)
        for fd in (1, 2):
            os.dup2(file.fileno(), fd)

        def text():
            file.flush()
            return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")

        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield text
        finally:
            for fd, old in zip((1, 2), saved, strict=True):
                os.dup2(old, fd)
                os.close(old)


def _own(frame) -> bool:
    path = Path(frame.f_code.co_filename)
    return path.is_relative_to(ROOT) and path.parts[len(ROOT.parts)] not in ("tests", ".venv")


def _fault(error: BaseException) -> str:
    """The fault that an error shows; "" if it is a refusal."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    code = linecache.getline(frame.f_code.co_filename, line).strip()
    refused = isinstance(error, REFUSALS) and _own(frame) and code.startswith("raise ")
    if isinstance(error, SystemExit):
        refused = error.code in (1, 2)
        return "" if refused else f"exit {error.code!r}"
    own = [(f, n) for f, n in frames if _own(f)]
    location = "outside Seedpod"
    if own:
        f, n = own[-1]
        location = f"{Path(f.f_code.co_filename).relative_to(ROOT)}:{n}"
    if not refused:
        return f"{type(error).__name__} at {location}"
    message = str(error)
    if len(message.strip()) < 10:
        return f"a refusal without a message, at {location}"
    if len(message) > CHARACTERS or message.count("\n") >= LINES:
        return f"a refusal longer than {CHARACTERS} characters or {LINES} lines, at {location}"
    return ""


def attempt(target: Target, number: int, seed: int, good: Any, folder: Path) -> Finding | bool:
    """Runs input `number`; returns a Finding, or whether it was accepted."""
    rng, detail, fault, accepted = Random(f"{seed}/{target.name}/{number}"), "", "", False
    start = time.monotonic()
    with captured() as output:
        try:
            with time_limit(target.seconds, _TooLong()):
                target.attempt(rng, good, folder)
                accepted = True
        except _TooLong:
            detail = traceback.format_exc()
            own = [
                s for s in traceback.extract_tb(sys.exc_info()[2]) if "/tests/" not in s.filename
            ]
            fault = f"longer than {target.seconds:.0f} s at {own[-1].name if own else '?'}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            detail = traceback.format_exc()
            fault = _fault(error)
        text = output()
    if not fault and "Traceback (most recent call last)" in text:
        fault, detail = "prints a traceback", text
    if not fault and time.monotonic() - start > target.seconds:
        fault = f"longer than {target.seconds:.0f} s outside Python"
    return Finding(target.name, number, fault, detail[-6000:]) if fault else accepted
