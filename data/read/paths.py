"""What a path or a glob names, on this machine or on an object store (gs://…)."""

from __future__ import annotations

import glob
import os

from etils import epath

from data.atomic import is_remote
from data.errors import DataError
from data.read import json_files
from data.read.templates import nearest


def expand(pattern) -> list[str]:
    """The files and `datasets` folders that a path or a glob stands for, sorted.

    Raises:
      DataError: there is none.
    """
    path = os.path.expanduser(os.fspath(pattern))
    here = epath.Path(path)
    try:
        if here.is_dir():
            return [_dataset_folder(path, here)]
        if here.exists():
            return [path]
        found = _glob(path) if glob.escape(path) != path else []
    except ImportError as error:
        raise DataError(f"{path}: {error}. Type: pip install gcsfs (for gs://)") from error
    except OSError as error:
        raise DataError(f"there is no file {path} ({error.strerror or error})") from error
    if found:
        return found
    what = f"no file matches {path}" if glob.escape(path) != path else f"there is no file {path}"
    if is_remote(path):
        raise DataError(what)
    folder, name = os.path.split(path)
    while not os.path.isdir(folder or "."):
        folder, name = os.path.split(folder)
    try:
        near = nearest(name, os.listdir(folder or "."))
    except OSError as error:
        raise DataError(f"{what}; {folder} cannot be listed: {error.strerror}") from error
    if not near:
        raise DataError(f"{what}; {folder or 'the current directory'} is empty")
    raise DataError(f"{what}; the nearest there is is {os.path.join(folder, near)}")


def _glob(path: str) -> list[str]:
    if not is_remote(path):
        return sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if "**" in path:
        raise DataError(f"{path}: ** is not searched on an object store; name its folders with *")
    scheme, _, rest = path.partition("://")
    bucket, _, inside = rest.partition("/")
    found = epath.Path(f"{scheme}://{bucket}").glob(inside)
    return sorted(os.fspath(p) for p in found if not p.is_dir())


def _dataset_folder(path: str, folder) -> str:
    """`path`, if it is what `datasets` saved.

    Raises:
      DataError: it is another folder, or one of several splits.
    """
    if (folder / "state.json").exists():
        return path
    if (folder / "dataset_dict.json").exists():
        splits = json_files.read(folder / "dataset_dict.json").get("splits", [])
        splits = splits if isinstance(splits, list) else []
        named = ", ".join(os.path.join(path, str(split)) for split in splits)
        raise DataError(f"{path} holds the splits of a data set; name one: {named}")
    if (folder / "manifest.json").exists():
        raise DataError(f"{path} holds prepared rows, of which no single record can be read")
    raise DataError(
        f"{path} is a directory. Name the files in it: {os.path.join(path, '**', '*.jsonl')}"
    )
