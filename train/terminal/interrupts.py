"""Ctrl-C: the first asks a run to save and to stop, a second leaves at once.

A thread hears of the signal through a pipe (`signal.set_wakeup_fd`): the main thread runs no Python
code while XLA compiles, and could not even say that it has understood.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from train.runtime import processes
from train.terminal import progress
from train.terminal.console import print_error

PATIENCE = 1.0  # seconds in which the main thread has to notice


class Mode(enum.Enum):
    """The effect of the first Ctrl-C, by what would be lost."""

    LEAVE = "there is nothing to save: KeyboardInterrupt"
    STEP = "the step ends, and is saved"
    EVALUATION = "the evaluation ends with KeyboardInterrupt, and the steps before it are saved"


_mode = Mode.LEAVE
_kept: Callable[[], str] | None = None
_noticed, _asked = threading.Event(), threading.Event()


def watch(kept: Callable[[], str] | None = None) -> None:
    """Handles Ctrl-C from now on.

    Args:
      kept: gives the message about what is saved, as train/terminal/saved.py's for training.
    """
    global _kept
    _kept = kept
    pipe, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _handle)
    threading.Thread(target=_listen, args=(pipe,), daemon=True).start()


def asked() -> bool:
    """Whether Ctrl-C was pressed."""
    return _asked.is_set()


@contextlib.contextmanager
def mode(new: Mode) -> Iterator[None]:
    """A context with another effect of Ctrl-C."""
    global _mode
    before, _mode = _mode, new
    try:
        yield
    finally:
        _mode = before


def message() -> str:
    """The message of a command that was interrupted, with what is saved."""
    return f"interrupted; {_kept()}" if _kept else "interrupted"


def stopped(step: int) -> str:
    """The message of a run that was saved at `step` because it was asked to stop."""
    if asked():
        return f"saved at step {step}; the same command resumes there"
    return f"preempted: saved at step {step}; run the same command to resume"


def _handle(number, frame) -> None:
    """Python's part, in the main thread, as soon as that runs Python code."""
    del number, frame
    _asked.set()
    _noticed.set()
    if _mode is Mode.LEAVE or (_mode is Mode.EVALUATION and not processes.joined()):
        raise KeyboardInterrupt


def _listen(pipe: int) -> None:
    """Answers each Ctrl-C at once."""
    presses = 0
    while number := os.read(pipe, 1):
        if number[0] != signal.SIGINT:
            continue
        presses, present = presses + 1, _mode
        if presses > 1:
            leave(message())
        _asked.set()
        if present is Mode.LEAVE:
            if not _noticed.wait(PATIENCE):
                leave(message())
            continue
        processes.ask_to_stop()
        leaves = present is Mode.EVALUATION and not processes.joined()
        end = "this evaluation" if leaves else "after this step"
        print_error(f"stopping {end}, saving…; Ctrl-C again leaves at once")


def leave(text: str, code: int = processes.INTERRUPTED) -> NoReturn:
    """Prints a last message and ends the process, without waiting for its threads or its peers:
    one that was interrupted in XLA may end with a crash otherwise."""
    progress.stop_all()
    print_error(text)
    processes.end(code)
