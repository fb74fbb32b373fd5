"""gcloud and kubectl, run or only printed; their errors in one line, with a remedy."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from data.errors import DataError
from data.read import json_files

LOST = 137  # exit code of a killed process: the machine it ran on is gone


class LaunchError(ValueError):
    """A refusal by gcloud, in one line with a remedy.

    Attributes:
      code: an exit code, which decides whether to try again (tpu/launch/supervise.py).
    """

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class StillThere(LaunchError):
    """Machines that were deleted are not gone."""


class Gcloud:
    """Runs commands, or with `dry_run` prints them and assumes that they succeed."""

    def __init__(self, dry_run: bool = False):
        self.dry_run = dry_run

    def __call__(self, command: list[str], data: bytes | None = None) -> str:
        """The output of a command.

        Args:
          data: its standard input; by default empty, so that the command cannot wait for an answer.

        Raises:
          LaunchError: it failed.
        """
        if self.dry_run:
            print(shlex.join(command))
            return ""
        try:
            done = subprocess.run(command, input=data or b"", capture_output=True, timeout=1800)
        except FileNotFoundError as e:
            raise LaunchError(f"{command[0]} is not installed") from e
        except subprocess.TimeoutExpired as e:
            raise LaunchError(f"{shlex.join(command[:5])} took over half an hour", LOST) from e
        if done.returncode:
            raise explain(done.stderr.decode(errors="replace"), command)
        return done.stdout.decode(errors="replace")


def parse_answer(output: str, command: list[str], kind: Any) -> Any:
    """The JSON that a command printed.

    Args:
      kind: its type (data/read/json_files.py).

    Raises:
      LaunchError: it is not of that type.
    """
    remedy = "Update it: gcloud components update"
    try:
        return json_files.parse(output, f"the answer of {shlex.join(command[:5])}", kind, remedy)
    except DataError as e:
        raise LaunchError(str(e)) from e


def explain(text: str, command: list[str]) -> LaunchError:
    """The error that gcloud printed, in one line with a remedy."""
    lines = [line for line in text.strip().splitlines() if line.strip()] or ["no message"]
    message = next((line for line in lines if "ERROR" in line), lines[-1]).strip()
    if "NOT_FOUND" in text:
        return LaunchError(f"there is no such resource: {message}", 1)
    if "active account" in text or "Reauthentication" in text:
        return LaunchError(f"{message} Type gcloud auth login")
    if "attribute [project]" in text:
        return LaunchError("gcloud has no project: type gcloud config set project PROJECT")
    if "uota" in text:
        return LaunchError(
            f"{message}. Request quota in that zone, or type a smaller --accelerator"
        )
    if any(sign in text for sign in ("no more capacity", "UNAVAILABLE", "stockout")):
        return LaunchError(f"the zone has no such machines now: {message}", LOST)
    if command[3:5] == ["queued-resources", "ssh"]:
        return LaunchError(f"ssh failed: {message}", LOST)
    return LaunchError(message)
