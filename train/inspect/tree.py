"""The tree of a model's parameters, of which nothing is read until it is indexed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.checkpoints.stored import Index
from train.checkpoints.verification import Damaged
from train.inspect import show
from train.inspect.sources import Path, Source

PART_BYTES = 32 << 20  # of `Weight.parts`
BLOCK = 1 << 20  # values that are converted to float64 at once


class Weight:
    """A parameter; `w[3]` reads layer 3 of a stack alone, `np.asarray(w)` all of it.

    Args:
      axes: the logical names of its axes (model/sharding.py). origin: of errors, the model's name.

    Attributes:
      name: its path, joined by `/`. shape. dtype: in which it is stored; what is read is float32.
    """

    def __init__(self, path: Path, axes: Sequence[str], source: Source, origin: str):
        self.name, self.axes, self.shape = "/".join(path), tuple(axes), source.shape
        self._source, self._origin = source, origin

    @property
    def dtype(self) -> np.dtype:
        return self._attempt(lambda: self._source.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes in storage, before compression."""
        return self.size * self.dtype.itemsize

    @property
    def layers(self) -> int:
        """The number of layers that are stacked in it; 0 outside of the layers."""
        return self.shape[0] if self.axes[:1] == ("layers",) else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """A part, by integers and slices: float32."""
        plain, reverse = _plain(index, self.shape)
        part = self._attempt(lambda: self._source.read(plain))
        return np.asarray(part[reverse], np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def parts(self) -> Iterator[np.ndarray]:
        """All of it, a layer or at most about `PART_BYTES` at a time."""
        if self.layers:
            together = self._attempt(lambda: self._source.rows)
            for start in range(0, self.layers, together):
                yield from self[start : start + together]
            return
        rows = max(PART_BYTES * len(self) // (4 * self.size), 1)
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def _attempt(self, read: Any) -> Any:
        try:
            return read()
        except Damaged as error:
            raise ConfigError(f"{self._origin}: {error}") from None

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        parts = show.imported("treescope.rendering_parts")
        return parts.build_one_line_tree_node(line=parts.text(repr(self)), path=path)

    def __repr__(self) -> str:
        axes = " ".join(self.axes)
        return f"Weight {self.name} {list(self.shape)} ({axes}) {show.size(self.nbytes)}"


def inner(x: np.ndarray, y: np.ndarray) -> float:
    """Σ x·y of two arrays of one size, summed in float64 a block at a time."""
    x, y = x.ravel(), y.ravel()
    blocks = (slice(start, start + BLOCK) for start in range(0, x.size, BLOCK))
    return sum(float(x[b].astype(np.float64) @ y[b].astype(np.float64)) for b in blocks)


def _plain(index: Any, shape: tuple[int, ...]) -> tuple[Index, tuple[slice, ...]]:
    """An index as one non-negative integer or slice upwards an axis, and what reverses the axes
    that were indexed downwards."""
    items = index if isinstance(index, tuple) else (index,)
    if (gaps := sum(item is Ellipsis for item in items)) == 0:
        items, gaps = (*items, Ellipsis), 1
    if gaps > 1 or len(items) - 1 > len(shape):
        raise IndexError(f"an array of {len(shape)} axes has no part {index!r}")
    at = next(i for i, item in enumerate(items) if item is Ellipsis)
    whole = (slice(None),) * (len(shape) - len(items) + 1)
    plain, reverse = list[int | slice](), list[slice]()
    for item, length in zip((*items[:at], *whole, *items[at + 1 :]), shape, strict=True):
        if isinstance(item, slice):
            places = range(*item.indices(length))
            reverse.append(slice(None, None, -1 if places.step < 0 else 1))
            places = places[::-1] if places.step < 0 else places
            start, stop = places.start, max(places.stop, places.start)
            plain.append(slice(start, min(stop, length), places.step))
            continue
        try:
            i = operator.index(item)
        except TypeError:
            raise TypeError(
                "a weight is indexed by integers and slices; np.asarray(w)[…] reads all of it first"
            ) from None
        if not -length <= i < length:
            raise IndexError(f"{i} is out of range for an axis of {length}")
        plain.append(i % length)
    return tuple(plain), tuple(reverse)


class Parameters(Mapping[str, Any]):
    """A node of the tree: {name: Weight or node}. `params["layers/query"]` goes down two levels."""

    def __init__(self, children: Mapping[str, Any]):
        self._children = dict(children)

    def __getitem__(self, name: str) -> Any:
        first, _, rest = name.partition("/")
        if first not in self._children or (rest and isinstance(self._children[first], Weight)):
            known = [*self._children, *self.flat()]
            raise KeyError(f"no weight {name!r}{did_you_mean(nearest(name, known))}")
        child = self._children[first]
        return child[rest] if rest else child

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def flat(self) -> dict[str, Weight]:
        """{path: weight} of all levels."""
        weights = dict[str, Weight]()
        for name, child in self._children.items():
            if isinstance(child, Weight):
                weights[name] = child
            else:
                weights |= {f"{name}/{path}": weight for path, weight in child.flat().items()}
        return weights

    def __repr__(self) -> str:
        rows = [
            [name, " ".join(w.axes), " ".join(map(str, w.shape)), show.size(w.nbytes)]
            for name, w in self.flat().items()
        ]
        return show.table("", ["weight", "axes", "shape", "bytes"], rows, words=2)

    def _plain(self) -> dict[str, Any]:
        children = self._children.items()
        return {n: x if isinstance(x, Weight) else x._plain() for n, x in children}

    def _repr_html_(self) -> str | None:
        return show.tree_html(self._plain())


def build(
    axes: Mapping[Path, Sequence[str]], sources: Mapping[Path, Source], origin: str
) -> Parameters:
    """The tree of some sources. Arguments as for `Weight`, by path."""
    tree: dict[str, Any] = {}
    for path, source in sources.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = Weight(path, axes[path], source, origin)

    def wrap(node: Any) -> Any:
        if isinstance(node, Weight):
            return node
        return Parameters({name: wrap(child) for name, child in node.items()})

    return wrap(tree)
