"""When, where and with what a run was trained: attempts.jsonl in its workdir has a line for each
attempt, and a chain's file DONE the last one in brief."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data.atomic import write_atomically
from train.runtime import outputs, strict_json

# Characters of the changes to the source that an attempt notes; the rest is cut.
MOST_DIFF = 100_000
# Packages whose versions decide what is computed.
PACKAGES = (
    "seedpod", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
    "tokenizers", "sentencepiece",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


def current(code: str | None = None) -> dict[str, str | int]:
    """{name: value} of this process: the date, the commit, the command, the versions and the
    machine. What cannot be found out is left out.

    Args:
      code: the commit when the process began; by default the present one.
    """
    values = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _source()[0] if code is None else code,
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


def add_attempt(
    workdir: epath.Path, step: int, data: Mapping[str, str], plugins: Mapping[str, str]
) -> None:
    """Adds an attempt at a run to attempts.jsonl; one that cannot be written now is written later.

    Args:
      step: where it begins. data: {setting: fingerprint} of the tokenizer and of the rows.
      plugins: {name: hash}.
    """
    path = workdir / "attempts.jsonl"
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    devices = [f"{d.device_kind} {d.id}" for d in jax.local_devices()]
    _, text = _source()
    attempt: dict[str, Any] = {
        "step": step, **current(), "host": socket.gethostname(), "platform": platform.platform(),
        "versions": versions, "local_devices": devices, "data": dict(data),
        "plugins": dict(plugins), "diff": text[:MOST_DIFF],
        "diff_cut": max(len(text) - MOST_DIFF, 0),
    }  # fmt: skip
    line = strict_json.dumps(attempt, ensure_ascii=False).encode(errors="replace") + b"\n"

    def write() -> None:
        before = path.read_bytes() if path.exists() else b""
        write_atomically(path, before + line)

    outputs.write_later(path, write, "it is not known with what this attempt was made")


@functools.cache  # of this process, whatever happens to its files afterwards
def _source() -> tuple[str, str]:
    """(commit, changes to the tracked files since it)."""
    head = commit()
    try:
        return head, _git("diff", "HEAD") if head.endswith("+changes") else ""
    except (OSError, ValueError, subprocess.SubprocessError):
        return head, ""


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


@functools.cache
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
