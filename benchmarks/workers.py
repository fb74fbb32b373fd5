"""A side of a race in a process of its own, usually of another Python with packages of its own.

    sh benchmarks/other_env.sh DIR torch==2.13.0        # makes that Python, DIR/bin/python

    worker = workers.Worker([python, HERE / "torch_side.py", "arguments"], threads=2)
    versions = worker.read()                  # a line of JSON that it prints before it is asked
    answer = worker.ask(steps=10)             # writes a line of JSON, returns the one it answers
    worker.close()

    workers.run([python, HERE / "side.py", "arguments"])   # one that answers once, and ends

The script of another Python is named `…_side.py`, by which tests know it, and imports nothing of
Seedpod. It prints nothing but JSON, a line an answer, and flushes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run(command: Sequence[str | Path], threads: int | None = None) -> Any:
    """The last line that a command prints, as JSON.

    Args:
      threads: those of NumPy and torch; by default as many as they choose.

    Raises:
      RuntimeError: it failed; the message ends with its standard error.
    """
    done = subprocess.run(command, env=_environment(threads), capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise _ended(command, done.returncode, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class Worker:
    """A process that answers each line of JSON with one, and waits between.

    Args:
      threads: those of NumPy and torch; by default as many as they choose. quiet: drop its
        standard error.
    """

    def __init__(
        self, command: Sequence[str | Path], threads: int | None = None, quiet: bool = False
    ):
        self.command = command
        self.process: Any = subprocess.Popen(
            command, env=_environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None, text=True,
        )  # fmt: skip

    def read(self) -> Any:
        """The next line that the process prints, as JSON.

        Raises:
          RuntimeError: the process has ended.
        """
        line = self.process.stdout.readline()
        if not line:
            raise _ended(self.command, self.process.wait())
        return json.loads(line)

    def ask(self, **request: Any) -> Any:
        """The answer to a request.

        Raises:
          RuntimeError: the process has ended.
        """
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def _environment(threads: int | None) -> dict[str, str]:
    return os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})


def _ended(command: Sequence[str | Path], code: int, message: str = "") -> RuntimeError:
    script = Path(next(word for word in map(str, command[1:]) if word != "-m")).name
    text = (
        f"{script} ended with {code}. Does {command[0]} have the packages that it imports? "
        "`sh benchmarks/other_env.sh DIR PACKAGE…` makes such a Python"
    )
    return RuntimeError(f"{text}:\n{message[-2000:]}" if message else text)
