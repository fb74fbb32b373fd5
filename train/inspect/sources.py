"""Where the arrays of a model are read from, one part at a time: a checkpoint, a frozen base with
adapters, or the files of an open model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model import lora, weights
from model.config import TransformerConfig
from model.pretrained.mapping import Slice, slices
from model.sharding import MeshConfig, make_mesh
from train.assembly.partition import Partition
from train.checkpoints import loading, saved_models
from train.checkpoints.stored import Index, StoredArray, open_newest
from train.config.run_names import split_step
from train.interop.weights import DTYPES, Reader, check_names

Path = tuple[str, ...]


class Source(Protocol):
    """An array that can be read in part.

    Attributes:
      shape: of the whole array. dtype: in which it is stored.
      rows: the number of entries of its first axis that are read at once.
    """

    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def rows(self) -> int: ...

    def read(self, index: Index) -> np.ndarray:
        """The part at `index`, as many non-negative integers and slices as there are axes."""
        ...


class FrozenArray:
    """A frozen weight with its adapter if it has one, merged as `loading.load_params` merges, and
    rounded to the dtype in which the run stored it.

    Args:
      base: the weight in the run that it comes from. adapter: {name: part of it}. part: of the run.
    """

    def __init__(self, path: Path, base: Source, adapter: Mapping[str, Source], part: Partition):
        self.shape, self.dtype = base.shape, np.dtype(np.float32)
        self._path, self._base, self._adapter, self._part = path, base, adapter, part

    @property
    def rows(self) -> int:
        return self._base.rows

    def read(self, index: Index) -> np.ndarray:
        first, rest = index[0], index[1:]
        layers = first if isinstance(first, slice) else slice(first, first + 1)
        above = self._path[:-1]
        adapter = {(*above, name): _layers(x, layers) for name, x in self._adapter.items()}
        frozen = self._part.freeze(unflatten_dict({self._path: _layers(self._base, layers)}))
        merged = np.asarray(
            flatten_dict(self._part.merge(unflatten_dict(adapter), frozen))[self._path]
        )
        return merged[(slice(None) if isinstance(first, slice) else 0, *rest)]


def _layers(source: Source, layers: slice) -> jax.Array:
    """Some layers of a stack, on one device."""
    index = (layers, *[slice(None)] * (len(source.shape) - 1))
    sharding = NamedSharding(make_mesh(MeshConfig(), jax.devices()[:1]), P())
    return jax.device_put(jnp.asarray(source.read(index), jnp.float32), sharding)


class OpenArray:
    """A parameter of an open model, of one tensor, or of one a layer, or one a layer and expert."""

    def __init__(self, reader: Reader, parts: list[Slice], like: Any):
        self.shape, self.dtype, self.rows = tuple(like.shape), DTYPES[reader.dtype], 1
        self._reader, self._parts = reader, {part.index: part for part in parts}
        self._depth = len(parts[0].index)

    def read(self, index: Index) -> np.ndarray:
        if not self._depth:
            return self._part(())[index]
        first, rest = index[0], index[1:]
        if not isinstance(first, slice):
            return self._layer(first)[rest]
        parts = [self._layer(i)[rest] for i in range(*first.indices(self.shape[0]))]
        return np.stack(parts) if parts else np.zeros(self.shape, np.float32)[index]

    def _layer(self, i: int) -> np.ndarray:
        if self._depth == 1:
            return self._part((i,))
        return np.stack([self._part((i, expert)) for expert in range(self.shape[1])])

    def _part(self, place: tuple[int, ...]) -> np.ndarray:
        part = self._parts[place]
        return part.to_ours(self._reader.read(part.name))


def of_open_model(
    config: TransformerConfig, reader: Reader, abstract: Mapping[str, Any]
) -> dict[Path, Source]:
    """The parameters of an open model.

    Raises:
      ConfigError: a tensor is missing, or has no place.
    """
    check_names(config, reader)
    parts: dict[Path, list[Slice]] = {}
    for part in slices(config):
        parts.setdefault(part.path, []).append(part)
    return {path: OpenArray(reader, parts[path], x) for path, x in flatten_dict(abstract).items()}


def of_run(
    name: epath.PathLike, role: str, abstract: Mapping[str, Any]
) -> tuple[int, dict[Path, Source]]:
    """(the step of the checkpoint, the parameters of a role in a run).

    Args:
      name: as of `loading.load_params`. abstract: their shapes and shardings.

    Raises:
      ConfigError: there is no checkpoint, or a file of the workdir is damaged.
    """
    item = saved_models.item_of(name, role)
    checkpoint = open_newest(*split_step(name))
    found, parts = int(checkpoint.name), saved_models.read_parts(name, role)

    def stored(tree: Mapping[str, Any]) -> dict[Path, Source]:
        flat = flatten_dict(tree)
        return {path: StoredArray(checkpoint, item, path, like) for path, like in flat.items()}

    if parts is None:
        return found, stored(abstract)
    part, origin = parts
    trained = stored(part.trained(abstract))
    trained_role = saved_models.ITEM_OF.get(role, role)
    shapes = loading.origin_shapes(origin["from"], origin["role"], trained_role, abstract)
    _, base = of_run(origin["from"], origin["role"], shapes)
    sources = dict[Path, Source]()
    for path in flatten_dict(abstract):
        if path in trained:
            sources[path] = trained[path]
            continue
        frozen = base[path if path in base else path[1:]]  # the backbone of another network
        names = (path[-1] + end for end in (lora.A, lora.B) if path in part.adapted)
        adapter = {name: trained[(*path[:-1], name)] for name in names}
        rounded = part.dtype != "float32" and weights.is_adaptable(path[-1])
        changed = adapter or rounded
        sources[path] = FrozenArray(path, frozen, adapter, part) if changed else frozen
    return found, sources
