"""Weights of open models: files read and written one tensor at a time.

A reader has `names` and `read(name) -> numpy array`. `place` puts what it reads straight onto the
mesh, so the host never holds more than a tensor; `write_safetensors` goes the other way.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import TransformerConfig
from model.pretrained import slices
from model.sharding import MeshConfig, make_mesh
from train.config import ConfigError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}
SHARD_BYTES = 5 * 10**9  # of a file, as transformers splits them

# Tensors that a checkpoint may hold beside its parameters: buffers, a tied head written twice, and
# the vision half of a model whose text half is read.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$|^vision_tower\.|^multi_modal_projector\.")
_PREFIXES = re.compile(r"^(language_model\.(?=model\.|lm_head\.)|model\.language_model\.)")


class Reader(Protocol):
    """Where tensors come from.

    Attributes:
      names: those it can read. where: what messages call it.
    """

    names: Iterable[str]
    where: str

    def read(self, name: str) -> np.ndarray: ...


class SafetensorsReader:
    """The tensors of a Hugging Face directory, one file or many (`*.safetensors`).

    Raises:
      ConfigError: there are none, or the index names files that are not there.
    """

    def __init__(self, directory):
        directory = epath.Path(directory)
        self.where = str(directory)
        index = directory / "model.safetensors.index.json"
        if index.exists():
            listed = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [name for name in listed if not (directory / name).exists()]
            if missing:
                raise ConfigError(
                    f"{directory} lacks {missing[0]}, one of {len(listed)} files that its "
                    "model.safetensors.index.json lists; download it again"
                )
            paths = [directory / name for name in listed]
        else:
            paths = sorted(directory.glob("*.safetensors"))
        if not paths:
            raise ConfigError(
                f"{directory} holds no *.safetensors; weights in other forms (.bin, .pth) have to "
                "be saved again with transformers: model.save_pretrained(DIR)"
            )
        self._file_of = {}
        for path in paths:
            file = safetensors.safe_open(path, "np")  # mapped, and read when asked for
            for name in file.keys():  # noqa: SIM118, it is no mapping
                self._file_of[_own_name(name)] = file, name
        self.names = self._file_of.keys()

    def read(self, name: str) -> np.ndarray:
        file, stored = self._file_of[name]
        return file.get_tensor(stored)


def _own_name(name: str) -> str:
    """Text models inside larger ones are named as they are alone."""
    found = _PREFIXES.match(name)
    if not found:
        return name
    rest = name[found.end() :]
    return rest if rest.startswith(("model.", "lm_head.")) else f"model.{rest}"


def check_names(config: TransformerConfig, reader: Reader) -> None:
    """Every parameter must be in the files, and every tensor of theirs must be a parameter.

    Raises:
      ConfigError: naming the first that is not.
    """
    wanted = {s.name for s in slices(config)}
    known = wanted | ({"lm_head.weight"} if config.tie_embeddings else set())
    missing = sorted(wanted - set(reader.names))
    if missing:
        raise ConfigError(
            f"{reader.where} has no tensor {missing[0]}"
            + (f" (nor {len(missing) - 1} others)" if len(missing) > 1 else "")
            + ", which the architecture of its config.json needs; is the download complete?"
        )
    extra = sorted(n for n in reader.names if n not in known and not _IGNORED.search(n))
    if extra:
        raise ConfigError(
            f"{reader.where} has {len(extra)} tensors that the architecture of its config.json has "
            f"no place for, such as {extra[0]}; leaving them out would be another model"
        )


def place(config: TransformerConfig, reader: Reader, abstract):
    """Parameters of `Transformer(config)`, filled tensor by tensor.

    Args:
      abstract: shapes, dtypes and shardings of the parameters.

    Raises:
      ConfigError: a tensor is missing, left over, or of another shape.
    """
    check_names(config, reader)
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    paths = [tuple(key.key for key in path) for path, _ in leaves]
    parts: dict[tuple[str, ...], list] = {path: [] for path in paths}
    for part in slices(config):
        parts[part.path].append(part)
    filled = [_fill(reader, parts[path], leaf) for path, (_, leaf) in zip(paths, leaves)]
    return jax.tree_util.tree_unflatten(tree, filled)


def _fill(reader, parts, leaf):
    """One parameter. Its parts go to their shards one by one, into a buffer that is reused."""
    depth = len(parts[0].index)
    spec = P(*(tuple(leaf.sharding.spec) + (None,) * len(leaf.shape))[depth : len(leaf.shape)])
    where = NamedSharding(leaf.sharding.mesh, spec)

    def part_of(part):
        tensor = reader.read(part.name)
        if tensor.shape != tuple(part.shape):
            raise ConfigError(
                f"{reader.where}: {part.name} is {list(tensor.shape)}, and the architecture of its "
                f"config.json makes it {list(part.shape)}"
            )
        value = np.asarray(part.to_ours(tensor), leaf.dtype)
        return jax.device_put(value, where)

    if not depth:
        return part_of(parts[0])
    stack = jax.jit(
        functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=leaf.sharding
    )()
    for part in parts:
        stack = _set(stack, part_of(part), np.array(part.index, np.int32))
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _set(stack, part, index):
    """stack[*index] = part, in place."""
    return stack.at[tuple(index)].set(part)


def whole_mesh(mesh=None):
    """`mesh`, or one that shards parameters over all devices."""
    return mesh or make_mesh(MeshConfig(data=1, fsdp=-1))


# Out


class Tensor(NamedTuple):
    """A tensor to write: its name and shape, and `read()`, which makes it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Any]


def tensors_of(config: TransformerConfig, params) -> list[Tensor]:
    """The Hugging Face tensors of parameters, each fetched from the devices as it is read."""

    def reader(part):
        def read():
            value = params
            for key in part.path:
                value = value[key]
            return part.to_hf(np.asarray(jax.device_get(value[part.index])))

        return read

    return [Tensor(part.name, tuple(part.shape), reader(part)) for part in slices(config)]


def write_safetensors(
    directory, tensors: list[Tensor], dtype: str, stem: str = "model", limit: int = SHARD_BYTES
) -> None:
    """Writes tensors in order; more than `limit` bytes make several files and an index.

    The host holds one file's tensors at a time.
    """
    directory, kind = epath.Path(directory), DTYPES[dtype]
    groups, room = [[]], limit
    for tensor in tensors:
        size = int(np.prod(tensor.shape)) * kind.itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= size
    weight_map, total = {}, 0
    for number, group in enumerate(groups, 1):
        of_many = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        name = f"{stem}{of_many}.safetensors"
        values = {t.name: np.ascontiguousarray(t.read().astype(kind)) for t in group}
        total += sum(v.nbytes for v in values.values())
        weight_map |= dict.fromkeys(values, name)
        # The format's readers in torch look for this.
        safetensors.numpy.save_file(values, directory / name, metadata={"format": "pt"})
        os.chmod(directory / name, 0o644)  # the library's are the owner's alone
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
