"""Atomic writes, on this machine and on object stores (gs://…)."""

from __future__ import annotations

import os

from etils import epath


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names an object store, such as gs://bucket/file."""
    return "://" in os.fspath(path)


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file so that, whenever the process is killed, `path` holds either all of `content`
    or what it held before. A string is encoded as UTF-8.

    Raises:
      OSError: the file cannot be written; `path` is unchanged and no temporary file remains.
    """
    path = epath.Path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(content)  # an object store shows an object only when it is complete
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
