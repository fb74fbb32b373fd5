"""Arrays of a checkpoint read in part.

What is read is not verified: a fingerprint is of a whole array (verification.py), so that verifying
a part would read all of it. `loading.load` verifies.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from data.read import json_files
from train.checkpoints import saved_models, verification

Index = tuple[int | slice, ...]
PIECE = 8 << 20  # bytes that are read at once


class StoredArray:
    """An array of an item of a checkpoint, of which nothing is read until it is asked for.

    Args:
      checkpoint: its directory. path: the array's place in the tree. like: its shape.
    """

    def __init__(self, checkpoint: epath.Path, item: str, path: tuple[str, ...], like: Any):
        self.shape: tuple[int, ...] = tuple(like.shape)
        self._checkpoint, self._item, self._name = checkpoint, item, ".".join(path)

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which it is stored. Raises verification.Damaged."""
        return np.dtype(self._opened.dtype.numpy_dtype)

    @property
    def rows(self) -> int:
        """The number of entries of the first axis that are stored together, of which none is read
        without the others: 1 of a large stack, all of a small array.

        In a checkpoint of an earlier version it is all of every array.
        """
        return self._opened.chunk_layout.read_chunk_template.shape[0]

    def read(self, index: Index) -> np.ndarray:
        """The part at `index`: as many non-negative integers and slices as it has axes.

        Raises:
          verification.Damaged: it cannot be read.
        """
        view = self._opened[index]
        part = np.empty(view.shape, self.dtype)
        self._attempt(lambda: _fill(part, view))
        return part

    @functools.cached_property
    def _opened(self) -> ts.TensorStore:
        array = self._attempt(self._open)
        if array.shape != self.shape:
            raise verification.Damaged(
                f"{self._item}: {self._name} is {list(array.shape)}, and models.json makes it "
                f"{list(self.shape)}"
            )
        return array

    def _open(self) -> ts.TensorStore:
        directory = self._checkpoint / self._item
        ocdbt = ocp.type_handlers.is_ocdbt_checkpoint(directory)
        info = ocp.type_handlers.ParamInfo(
            name=self._name,
            parent_dir=directory,
            is_ocdbt_checkpoint=ocdbt,
            use_zarr3=bool(json_files.read(directory / "_METADATA").get("use_zarr3")),
            ts_context=_context(ocdbt),
        )
        spec = ocp.type_handlers.get_json_tspec_read(info, use_ocdbt=ocdbt)
        return ts.open(spec, open=True, read=True, context=_context(ocdbt)).result()

    def _attempt(self, read):
        return verification.readable(self._checkpoint, self._item, read)


@functools.cache
def _context(ocdbt: bool) -> ts.Context:
    return ocp.type_handlers.get_ts_context(use_ocdbt=ocdbt)


def _fill(part: np.ndarray, view: ts.TensorStore) -> None:
    """Reads a few chunks at a time: TensorStore holds all that it reads at once, compressed, beside
    the result."""
    chunk = view.chunk_layout.read_chunk_template.shape
    counts = [-(-length // size) for length, size in zip(view.shape, chunk, strict=True)]
    if part.nbytes <= PIECE or max(counts) == 1:
        part[...] = view.read().result()
        return
    axis = int(np.argmax(counts))
    middle = counts[axis] // 2 * chunk[axis]
    first = view.origin[axis]
    ends = first, first + middle, first + view.shape[axis]
    for start, stop in itertools.pairwise(ends):
        place = (*[slice(None)] * axis, slice(start - first, stop - first))
        _fill(part[place], view[(*[slice(None)] * axis, slice(start, stop))])


def open_newest(workdir: epath.PathLike, step: int | None = None) -> epath.Path:
    """The checkpoint of `step`, by default the newest whose files are whole. Its arrays are not
    read.

    Raises:
      ConfigError: there is none, or another file of the workdir is damaged.
    """

    def check(checkpoint: epath.Path, meta: dict[str, Any]) -> None:
        saved_models.check_files(workdir, meta.get("files", {}))

    return verification.newest_valid(workdir, check, step)[0]
