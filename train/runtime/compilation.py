"""JAX's persistent compilation cache: a restarted run compiles nothing again.

Process 0 writes and all processes read, so that all must see its directory. The key of an entry is
the program, the compiler's version and flags, and the devices. Programs that compile in under a
second are not cached (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS).
"""

from __future__ import annotations

import jax
from etils import epath


def directory(setting: str, workdir: epath.Path) -> str:
    """The directory of the cache; "" for none.

    Args:
      setting: a directory, also `gs://…`; `none`; or `auto`: one in the workdir on
        accelerators, none on CPU. A program for CPU uses the instructions of its processor, so
        machines with different processors must not share a directory.
    """
    if setting == "auto":
        setting = "none" if jax.default_backend() == "cpu" else str(workdir / "compilation_cache")
    return "" if setting == "none" else setting


def enable(setting: str, workdir: epath.PathLike) -> None:
    """Enables the cache in the `directory` of a setting."""
    if path := directory(setting, epath.Path(workdir)):
        jax.config.update("jax_compilation_cache_dir", path)
