"""The Python that runs: whether it can run Seedpod, how Ctrl-C ends it, how the user types it."""

import importlib.util
import os
import shlex
import shutil
import signal
import sys


def check() -> None:
    """Ends the process with a message where this Python is too old or lacks Seedpod's packages, and
    makes Ctrl-C end a command with one.

    Every package with commands calls it when it is imported, so it is written for old Pythons too.
    """
    # Python's word for a module that `python -m` is about to run. A signal that is ignored, as
    # nohup does, stays so.
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        sys.excepthook = _last_words
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(map(str, sys.version_info[:2]))
        fault = f"is Python {version}; Seedpod needs 3.11 or later"
    elif importlib.util.find_spec("absl") and importlib.util.find_spec("jax"):
        return
    else:
        fault = "has no JAX; it is not the Python of Seedpod's environment"
    made = "" if os.path.exists(".venv/bin/python") else "`make setup`, then "
    raise SystemExit(f"error: {sys.executable} {fault}. Type {made}`. .venv/bin/activate`")


def _interrupted(number, frame):
    """Handles Ctrl-C: KeyboardInterrupt, but in an import, where libraries take it for a failure
    of their own, the end at once."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _last_words(kind, error, traceback):
    """Prints the error that ends the process; of KeyboardInterrupt one line."""
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    sys.__excepthook__(kind, error, traceback)


def _leave():
    """Ends the process after Ctrl-C with the exit code of a shell, without waiting for threads."""
    sys.stdout.flush()
    unfinished = "\r\x1b[K" if sys.stderr.isatty() else ""  # a line that says "reading …"
    sys.stderr.write(unfinished + "interrupted\n")
    sys.stderr.flush()
    os._exit(130)


def python() -> str:
    """This interpreter as the user types it here: `python` if that is it, else its path."""
    folder, name = os.path.split(sys.executable)
    for command in ("python", name):
        if os.path.dirname(shutil.which(command) or "") == folder:
            return command
    path = os.path.relpath(sys.executable)
    return shlex.quote(os.path.abspath(path) if path.startswith(os.pardir) else path)
