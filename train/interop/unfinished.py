"""Directories that an import or an export makes: marked until they are whole, so that the same
command finishes what a kill cut off, and no other directory is written over."""

from __future__ import annotations

import contextlib
import json

from etils import epath

from ranges import ConfigError

MARK = ".unfinished.json"


@contextlib.contextmanager
def directory(path, flag: str, facts: dict):
    """A new directory to fill, which is emptied first of what the same command left there.

    Args:
      flag: that named it, for messages. facts: what is made, as JSON; the same command has the
        same.

    Raises:
      ConfigError: it holds something else, or cannot be made.
    """
    path = epath.Path(path)
    check_free(path, flag, facts)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / MARK).write_text(json.dumps(facts))
        for child in path.iterdir():
            if child.is_dir():
                child.rmtree()
            elif child.name != MARK:
                child.unlink()
    except OSError as e:
        raise ConfigError(f"--{flag}={path} cannot be written ({e.strerror or e})") from e
    try:
        yield path
    except Exception:
        path.rmtree()  # refused, not killed: nothing is left to finish
        raise
    (path / MARK).unlink()


def is_marked(path) -> bool:
    return (epath.Path(path) / MARK).exists()


def check_free(path, flag: str, facts: dict) -> None:
    """Refuses a directory that holds anything but what the same command left unfinished.

    Raises:
      ConfigError: it does.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"--{flag}={path} is a file; give a directory")
    names = {child.name for child in path.iterdir()}
    if not names:
        return
    if MARK not in names:
        raise ConfigError(f"--{flag}={path} is not empty; give another directory")
    try:
        before = json.loads((path / MARK).read_text())
    except ValueError:  # killed while it was written, before anything else was
        before = facts if names == {MARK} else None
    if before != facts:
        raise ConfigError(
            f"--{flag}={path} holds what another command left unfinished: {before}. Type that "
            "command again, or remove the directory"
        )
