"""When, where and with what a run was trained; the chain notes it in the file DONE of a run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]


def current(code: str | None = None) -> dict[str, str | int]:
    """{name: value} of this process: the date, the commit, the command, the versions and the
    machine. What cannot be found out is left out.

    Args:
      code: the commit when the process began; by default the present one.
    """
    values = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit() if code is None else code,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "seedpod": _version("seedpod"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }
    return {name: value for name, value in values.items() if value}


def commit() -> str:
    """The commit of the source code, with `+changes` if tracked files differ; empty if it is not
    in a git repository of its own."""
    try:
        top, head = _git("rev-parse", "--show-toplevel", "HEAD").split("\n")
        if Path(top).resolve() != ROOT.resolve():
            return ""
        return head + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """The name of the processor, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
