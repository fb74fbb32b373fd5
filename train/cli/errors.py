"""Errors of the commands: a message and exit code 1 instead of a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

MOST_SHOWN = 2000  # characters of an error message
# Errors whose message explains the fault of the input; DataError and ConfigError are
# ValueErrors.
EXPECTED = (ValueError, OSError, FloatingPointError)


def fail(message: str) -> NoReturn:
    """Prints an error and ends the process with exit code 1."""
    print(f"error: {short(message)}", file=sys.stderr)
    raise SystemExit(1)


def short(message: str) -> str:
    """A message cut to a few lines, whatever it quotes."""
    return message if len(message) <= MOST_SHOWN else message[:MOST_SHOWN] + " …"


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Ends the command with a message and exit code 1 where an error of `EXPECTED` is raised."""
    try:
        yield
    except EXPECTED as e:
        fail(str(e))
