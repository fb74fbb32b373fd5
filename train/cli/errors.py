"""Errors of the commands: a message and exit code 1 instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from printable import escaped
from train.runtime.processes import INTERRUPTED
from train.terminal.text import columns, wrap

MOST_SHOWN = 2000  # characters of an error message
# Errors whose message explains the fault of the input; DataError and ConfigError are
# ValueErrors.
EXPECTED = (ValueError, OSError, FloatingPointError)


def fail(message: str) -> NoReturn:
    """Prints an error, wrapped on a terminal and else one line, and ends the process with exit
    code 1."""
    lines = escaped(f"error: {short(message).strip()}").split("\n")
    if sys.stderr.isatty():
        wrapped = (part for line in lines for part in wrap(line, columns()))
        print("\n".join(wrapped), file=sys.stderr)
    else:
        line = " ".join(line if line[-1:] in ".:;," else f"{line}." for line in lines[:-1])
        print(f"{line} {lines[-1]}".strip(), file=sys.stderr)
    raise SystemExit(1)


def interrupted(message: str) -> NoReturn:
    """Ends the process after Ctrl-C, with the exit code of a shell."""
    print(escaped(f"interrupted; {message}"), file=sys.stderr)
    raise SystemExit(INTERRUPTED) from None


def short(message: str) -> str:
    """A message cut to a few lines, whatever it quotes."""
    return message if len(message) <= MOST_SHOWN else message[:MOST_SHOWN] + " …"


def no_backend(error: Exception) -> str:
    """The message about a kind of device that JAX cannot use here, or ""."""
    setting = os.environ.get("JAX_PLATFORMS", "")
    found = re.match(r"Unable to initialize backend '(\w+)': (.*)", str(error), re.DOTALL)
    if isinstance(error, RuntimeError) and found:
        kind, reason = found[1], ": " + found[2].partition(" (")[0].strip().rstrip(".")
    elif isinstance(error, AssertionError) and setting and _is_of_backends(error):
        kind, reason = setting, ""  # JAX has the library, and asserts that it found a device
    else:
        return ""
    asked = f", which JAX_PLATFORMS={setting} asks for" * bool(setting)
    return (
        f"JAX cannot use {kind} on this machine{asked}{reason}. For the CPU, type "
        "JAX_PLATFORMS=cpu before the command"
    )


def _is_of_backends(error: Exception) -> bool:
    """Whether JAX raised an error where it looks for devices."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith("xla_bridge.py")


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Ends the command with a message and exit code 1 where an error of `EXPECTED` is raised, or a
    device is missing."""
    try:
        yield
    except EXPECTED as e:
        fail(str(e))
    except (RuntimeError, AssertionError) as e:
        if message := no_backend(e):
            fail(message)
        raise
