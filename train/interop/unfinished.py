"""Directories of an import or an export, marked until they are complete: the same command finishes
one that a kill interrupted, and no other directory is overwritten."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from etils import epath

from ranges import ConfigError
from train.guards import lock, lock_store

MARK = ".unfinished.json"


@contextlib.contextmanager
def directory(path: epath.PathLike, flag: str, record: dict) -> Iterator[epath.Path]:
    """A context with an empty directory, from which the remains of the same command are deleted.

    Args:
      flag: the flag that named it, for messages. record: the command's settings as JSON, which
        identify it.

    Raises:
      ConfigError: the directory holds something else, or cannot be made.
    """
    path = epath.Path(path)
    check_free(path, flag, record)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"--{flag}={path} cannot be written ({e.strerror or e})") from e
    with lock.owned(path):
        try:
            (path / MARK).write_text(json.dumps(record))
            for child in path.iterdir():
                if child.is_dir():
                    child.rmtree()
                elif child.name != MARK and not lock_store.is_lock(child.name):
                    child.unlink()
        except OSError as e:
            raise ConfigError(f"--{flag}={path} cannot be written ({e.strerror or e})") from e
        try:
            yield path
        except Exception:
            path.rmtree()  # the command failed and was not killed: nothing can be finished
            raise
        (path / MARK).unlink()


def is_marked(path: epath.PathLike) -> bool:
    """Whether a directory is incomplete."""
    return (epath.Path(path) / MARK).exists()


def check_free(path: epath.PathLike, flag: str, record: dict) -> None:
    """Refuses a directory with anything but the remains of the same command.

    Raises:
      ConfigError: it is not empty.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"--{flag}={path} is a file; give a directory")
    names = {child.name for child in path.iterdir() if not lock_store.is_lock(child.name)}
    if not names:
        return
    if MARK not in names:
        raise ConfigError(f"--{flag}={path} is not empty; give another directory")
    try:
        marked = json.loads((path / MARK).read_text())
    except ValueError:  # killed while the mark was written, before anything else was
        marked = record if names == {MARK} else None
    if marked != record:
        raise ConfigError(
            f"--{flag}={path} holds the unfinished output of another command: {marked}. Run that "
            "command again, or remove the directory"
        )
