"""Compiled programs kept on disk: a run that is started again does not compile again.

JAX's persistent cache. Process 0 writes and all read, so a directory has to be seen by all. An
entry is found by the program, the compiler's version and flags, and the devices. Programs that
compile in under a second are not kept (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS).
"""

from __future__ import annotations

import jax
from etils import epath


def directory(where: str, workdir) -> str:
    """Where compiled programs are kept; empty for nowhere.

    Args:
      where: a directory, `gs://…` too; `none`; or `auto`: the workdir's own on accelerators, none
        on CPU. There a program holds instructions of the very processor, so a directory may only be
        given to machines of one kind.
    """
    if where == "auto":
        where = "none" if jax.default_backend() == "cpu" else str(workdir / "compilation_cache")
    return "" if where == "none" else where


def keep(where: str, workdir) -> None:
    """Keeps what is compiled from now on where `directory` says."""
    if path := directory(where, epath.Path(workdir)):
        jax.config.update("jax_compilation_cache_dir", path)
