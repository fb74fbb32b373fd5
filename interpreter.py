"""The Python that runs: whether it can run Seedpod, and how the user types it."""

import importlib.util
import os
import shlex
import shutil
import sys


def check():
    """Ends the process with a message where this Python is too old or lacks Seedpod's packages.

    Every package with commands calls it when it is imported, so it is written for old Pythons too.
    """
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(map(str, sys.version_info[:2]))
        fault = f"is Python {version}; Seedpod needs 3.11 or later"
    elif importlib.util.find_spec("absl") and importlib.util.find_spec("jax"):
        return
    else:
        fault = "has no JAX; it is not the Python of Seedpod's environment"
    made = "" if os.path.exists(".venv/bin/python") else "`make setup`, then "
    raise SystemExit(f"error: {sys.executable} {fault}. Type {made}`. .venv/bin/activate`")


def python() -> str:
    """This interpreter as the user types it here: `python` if that is it, else its path."""
    folder, name = os.path.split(sys.executable)
    for command in ("python", name):
        if os.path.dirname(shutil.which(command) or "") == folder:
            return command
    path = os.path.relpath(sys.executable)
    return shlex.quote(os.path.abspath(path) if path.startswith(os.pardir) else path)
