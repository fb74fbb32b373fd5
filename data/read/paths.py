"""Paths and globs, on this machine or on an object store (gs://…)."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator

from etils import epath

from data.atomic import is_remote
from data.errors import DataError
from data.read import json_files
from suggestions import nearest

MOST_NAMES = 8  # of a folder in an error message


def expand(pattern: epath.PathLike) -> list[str]:
    """The files and `datasets` folders that a path or a glob matches, sorted.

    Raises:
      DataError: there are none.
    """
    name = os.path.expanduser(os.fspath(pattern))
    path = epath.Path(name)
    try:
        if path.is_dir():
            return [_dataset_folder(name, path)]
        if path.exists():
            return [name]
        matches = _glob(name) if glob.escape(name) != name else []
    except ImportError as error:
        raise DataError(f"{name}: {error}. Type: pip install gcsfs (for gs://)") from error
    except OSError as error:
        raise DataError(f"there is no file {name} ({error.strerror or error})") from error
    if matches:
        return matches
    reason = f"no file matches {name}" if glob.escape(name) != name else f"there is no file {name}"
    if is_remote(name):
        raise DataError(reason)
    folder, last = os.path.split(name)
    while not os.path.isdir(folder or "."):
        folder, last = os.path.split(folder)
    try:
        names = sorted(name for name in os.listdir(folder or ".") if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{reason}; {folder} cannot be listed: {error.strerror}") from error
    place = folder or "the current directory"
    if not names:
        raise DataError(f"{reason}; {place} is empty")
    if near := nearest(last, names, 0.5) or nearest(os.path.basename(name), names, 0.5):
        raise DataError(f"{reason}; the nearest is {os.path.join(folder, near)}")
    more = " …" if len(names) > MOST_NAMES else ""
    raise DataError(f"{reason}; {place} has {', '.join(names[:MOST_NAMES])}{more}")


def inside(folder: epath.PathLike, name: str, origin: epath.PathLike) -> str:
    """The path of a file of a folder that another file of it names.

    Args:
      origin: the file that names it, such as a manifest, for the error.

    Raises:
      DataError: the name leads out of the folder, by itself or through a link.
    """
    path, parts = os.path.join(os.fspath(folder), name), name.split("/")
    leads_out = not name or os.path.isabs(name) or is_remote(name) or not name.isprintable()
    if leads_out or ".." in parts or "." in parts:
        raise DataError(f"{origin} names {name!r:.80}, which is no file of its folder; restore it")
    if not is_remote(folder):
        root, real = os.path.realpath(folder), os.path.realpath(path)
        # In the hub's cache, snapshots/COMMIT holds links to blobs beside `snapshots`.
        if os.path.basename(os.path.dirname(root)) == "snapshots":
            root = os.path.dirname(os.path.dirname(root))
        if os.path.commonpath([root, real]) != root:
            raise DataError(
                f"{path}, which {origin} names, is a link to {real}, outside of its folder. Put "
                "the file itself there"
            )
    return path


def _glob(path: str) -> list[str]:
    if not is_remote(path):
        return sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if "**" in path:
        raise DataError(f"{path}: ** is not searched on an object store; name its folders with *")
    scheme, _, rest = path.partition("://")
    bucket, _, inside = rest.partition("/")
    matches = epath.Path(f"{scheme}://{bucket}").glob(inside)
    return sorted(os.fspath(p) for p in matches if not p.is_dir())


def _dataset_folder(path: str, folder) -> str:
    """`path`, if it is a folder that `datasets` saved.

    Raises:
      DataError: it is another folder, or a folder of several splits.
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
    names = [os.path.basename(file) for file in files_in(folder)]
    if not names:
        raise DataError(f"{path} is an empty directory; name a file, or a directory with files")
    endings = Counter(os.path.splitext(name.removesuffix(".gz"))[1] for name in names)
    ending = max(sorted(endings), key=lambda ending: (bool(ending), endings[ending]))
    raise DataError(
        f"{path} is a directory. Name the files in it: {os.path.join(path, '**', '*' + ending)}"
    )


def identity(source: epath.PathLike) -> list:
    """[file, size, times of change] of each file of a path or folder; [] if there is none."""
    path = epath.Path(source)
    files = list(files_in(path)) if path.exists() else []
    if is_remote(path):
        return [[os.fspath(file), (stat := file.stat()).length, stat.mtime] for file in files]
    return [
        [os.fspath(file), (stat := os.stat(file)).st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for file in files
    ]


def files_in(path: epath.Path) -> Iterator[epath.Path]:
    """The files of a folder and its subfolders; a file itself."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from files_in(entry)
