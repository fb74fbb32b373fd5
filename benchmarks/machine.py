"""The machine and the versions with which a figure was measured, and the memory of this process."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from train.report import provenance

# Other work on the machine when this process began: the number of processes that wanted a core.
LOAD = os.getloadavg()[0]


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or its control group's if that is
    less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        sizes.append(int(text))
    return min(sizes)


def resident_bytes() -> int:
    """The resident memory of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def shortened(value: Any) -> Any:
    """A value for JSON with the last part of absolute paths alone: folders of this machine mean
    nothing elsewhere."""
    if isinstance(value, dict):
        return {name: shortened(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(x) for x in value]
    return re.sub(r"(^|(?<=[=,]))/[^, ]*/", "", value) if isinstance(value, str) else value


def command() -> str:
    """The command that was typed, without --json, with absolute paths shortened."""
    words = shortened(sys.orig_argv[1:])
    return re.sub(r" --json[= ]\S+", "", shlex.join(["python", *words]))


def facts() -> dict[str, Any]:
    """{`date`, `commit`, `command`, `versions`, `machine`} of this process.

    `machine` holds the `processor`, the `cores` that this process may use, `memory_gib`, the
    `devices` of JAX, and `load`, the load average when this module was imported.
    """
    now = provenance.current()
    versions = {name: now[name] for name in ("python", "jax", "seedpod") if name in now}
    return {
        "date": str(now["date"])[:10],
        "commit": now.get("commit", ""),
        "command": command(),
        "versions": versions,
        "machine": {
            "processor": now["processor"], "cores": now["cores"],
            "memory_gib": round(memory_bytes() / 2**30), "devices": now["devices"],
            "load": round(LOAD, 1),
        },
    }  # fmt: skip
