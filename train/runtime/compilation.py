"""JAX's persistent compilation cache: a program that was compiled once is read.

Process 0 writes and all processes read, so that all must see its directory. The key of an entry is
the program, the compiler's version and flags, and the devices.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path

import jax
from etils import epath

from train.runtime import outputs

# Of the user's cache; the programs that were not used for longest are removed first.
MOST_BYTES = 1 << 30
# Lines of /proc/cpuinfo on which programs depend, on x86 and on ARM.
_CPUINFO = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")


def enable(setting: str, workdir: epath.Path) -> None:
    """Enables the cache.

    Args:
      setting: a directory, also `gs://…`; `none`; or `auto`: the directory that
        JAX_COMPILATION_CACHE_DIR names, else one in the workdir on accelerators, and the user's on
        CPU.
    """
    if setting == "none":
        jax.config.update("jax_enable_compilation_cache", False)
    elif setting != "auto":
        jax.config.update("jax_compilation_cache_dir", setting)
    elif jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        pass
    elif jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    else:
        folder = users_folder()
        try:
            prepare(folder)
        except OSError as error:
            outputs.failed(str(folder), error, "programs are compiled at every start")
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def users_folder() -> Path:
    """The user's cache for this kind of processor: a program for CPU uses its instructions."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "seedpod" / processor_key()


def processor_key() -> str:
    """A name for what XLA on CPU compiles for: the kind of processor and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first, *_ = cpuinfo.read_text().split("\n\n")
        facts = [line for line in first.splitlines() if line.startswith(_CPUINFO)]
        facts.append(str(len(os.sched_getaffinity(0))))
    else:  # one name for each machine
        facts = [platform.node(), platform.machine()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def prepare(folder: Path) -> None:
    """Creates the user's cache. Removes entries whose process was killed while it wrote them: JAX
    would neither use nor replace them.

    Raises:
      OSError: it cannot be written.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    (folder / ".lockfile").touch()  # JAX's
    for entry in folder.glob("*-cache"):
        # JAX writes the time of the last use after the program.
        used = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
        if not used.exists() and time.time() - entry.stat().st_mtime > 60:
            entry.unlink(missing_ok=True)
