"""Weights of open models: files read and written one tensor at a time.

A reader has `names` and `read(name) -> numpy array`. `place` puts each tensor on the mesh as it is
read, so that the host never holds more than one; `write_safetensors` is the other direction.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import TransformerConfig
from model.pretrained.mapping import slices
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import networks
from train.interop import safetensors_files
from train.runtime.finite import finite
from train.terminal.console import console

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(jnp.bfloat16),
    "float16": np.dtype(np.float16),
}
SHARD_BYTES = 5 * 10**9  # per file, as in transformers

# Tensors that a checkpoint may hold besides the parameters that are read: buffers, and the encoders
# of multimodal models, which transformers 5 puts under `model.`.
_BUFFER = re.compile(r"rotary_emb\.inv_freq$")
_TOWER = re.compile(
    r"^(?:model\.)?(vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\."
)
_PREFIX = re.compile(r"^(?:model\.)?language_model\.")
# Names of the scales, zero points and packed values of quantised weights.
_QUANTISED = re.compile(
    r"weight_scale|scale_inv$|\.(qweight|qzeros|scales|g_idx|weight_packed|SCB|absmax)$|quant_state"
)
UNQUANTISED = (
    "Seedpod reads unquantised weights: take the repository that these were made from (bfloat16, "
    "float16 or float32; often the same name without -FP8, -AWQ, -GPTQ, -bnb-4bit or -INT8)"
)


class Reader(Protocol):
    """A source of tensors.

    Attributes:
      names: of its tensors. location: its path, for messages.
      dtype: the one of `DTYPES` that most of the weights are stored in.
    """

    location: str
    dtype: str

    @property
    def names(self) -> Iterable[str]: ...

    def file_of(self, name: str) -> str: ...

    def read(self, name: str) -> np.ndarray: ...


class SafetensorsReader:
    """The tensors of a Hugging Face directory, in one file or several: a `Reader`.

    Raises:
      ConfigError: there are none, a file is damaged, or the index does not fit the files.
    """

    def __init__(self, directory: epath.PathLike):
        self.location = str(directory)
        paths, listed = safetensors_files.weight_files(directory)
        self._places: dict[str, tuple] = {}  # {our name: (opened file, name in it, path)}
        stored_in = {}
        for path in paths:
            file = safetensors_files.open_file(path)
            for name in file.keys():  # noqa: SIM118, it is no mapping
                if listed.get(name, path.name) == path.name:
                    self._add(file, name, path)
                stored_in.setdefault(name, path.name)
        missing = next((n for n in listed if n not in stored_in), None)
        misplaced = next(
            (n for n in listed if n in stored_in and _own_name(n) not in self._places), None
        )
        if name := missing or misplaced:
            actual = "none of its files does" if missing else f"{stored_in[name]} holds it"
            raise ConfigError(
                f"{directory}: model.safetensors.index.json puts {name:.80} in {listed[name]}, and "
                f"{actual}; the index and the files are of different downloads: download all again"
            )
        self.names = self._places.keys()
        self.dtype = self._dtype()

    def _add(self, file, name, path) -> None:
        own = _own_name(name)
        if own in self._places:
            _, other_name, other_path = self._places[own]
            raise ConfigError(
                f"{path} holds {name}, and {other_path} holds {other_name}: the same weight twice. "
                "Leave the files of one model in the directory"
            )
        self._places[own] = file, name, path

    def _dtype(self) -> str:
        sizes = dict.fromkeys(DTYPES, 0)
        for file, name, _ in self._places.values():
            part = file.get_slice(name)
            if kind := safetensors_files.DTYPES.get(part.get_dtype()):
                sizes[kind] += math.prod(part.get_shape())
        return max(sizes, key=sizes.__getitem__)

    def file_of(self, name: str) -> str:
        return str(self._places[name][2])

    def read(self, name: str) -> np.ndarray:
        file, stored, path = self._places[name]
        kind = file.get_slice(stored).get_dtype()
        if kind not in safetensors_files.DTYPES:
            raise ConfigError(
                f"{path}: {stored} is stored as {kind}: the weights are quantised. {UNQUANTISED}"
            )
        return file.get_tensor(stored)


def _own_name(name: str) -> str:
    """The name of a tensor without the prefix of a text model inside a larger one."""
    match = _PREFIX.match(name)
    if not match:
        return name
    rest = name[match.end() :]
    return rest if rest.startswith(("model.", "lm_head.")) else f"model.{rest}"


def check_names(config: TransformerConfig, reader: Reader) -> None:
    """Checks that every parameter is in the files, and that every tensor there is a parameter.

    Buffers and the parts of a model that are not for text are not read, and a line counts them.

    Raises:
      ConfigError: naming the first that is not.
    """
    names = set(reader.names)
    if config.num_layers * max(1, config.num_experts) > len(names):
        experts = f" of {config.num_experts} experts" if config.num_experts else ""
        raise ConfigError(
            f"{reader.location} has {len(names)} tensors, and its config.json {config.num_layers} "
            f"layers{experts}; they are not of one model, or the download is not complete"
        )
    wanted = {s.name for s in slices(config)}
    known = wanted | ({"lm_head.weight"} if config.tie_embeddings else set())
    extra = sorted(n for n in names - known if not (_BUFFER.search(n) or _TOWER.search(n)))
    if quantised := [n for n in extra if _QUANTISED.search(n)]:
        raise ConfigError(
            f"{reader.location} has {len(quantised)} tensors such as {quantised[0]}: its weights "
            f"are quantised. {UNQUANTISED}"
        )
    if missing := sorted(wanted - names):
        raise ConfigError(
            f"{reader.location} has no tensor {missing[0]}"
            + (f" (nor {len(missing) - 1} others)" if len(missing) > 1 else "")
            + ", which the architecture of its config.json needs; is the download complete?"
        )
    if extra:
        raise ConfigError(
            f"{reader.location} has {len(extra)} tensors that the architecture of its config.json "
            f"has no place for, such as {', '.join(extra[:3])}; without them the model is another"
        )
    left_out = [n for n in names - known if n not in extra]
    kinds = {m[1] if (m := _TOWER.match(n)) else "rotary buffers" for n in left_out}
    if left_out:
        console.print(
            f"{reader.location}: {len(left_out)} tensors are left out, which the text model does "
            f"not read: {', '.join(sorted(kinds))}",
        )


def place(config: TransformerConfig, reader: Reader, abstract: Any) -> Any:
    """Parameters of `Transformer(config)`, filled tensor by tensor.

    Args:
      abstract: shapes, dtypes and shardings of the parameters.

    Raises:
      ConfigError: a tensor is missing, has no place, or has another shape.
    """
    check_names(config, reader)
    networks.check_memory(abstract, str(reader.location))
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    paths = [tuple(key.key for key in path) for path, _ in leaves]
    parts: dict[tuple[str, ...], list] = {path: [] for path in paths}
    for part in slices(config):
        parts[part.path].append(part)
    filled = [_fill(reader, parts[path], leaf) for path, (_, leaf) in zip(paths, leaves)]
    return jax.tree_util.tree_unflatten(tree, filled)


def _fill(reader, parts, leaf):
    """One parameter, whose parts are written one by one into their shards of a donated buffer."""
    depth = len(parts[0].index)
    spec = P(*(tuple(leaf.sharding.spec) + (None,) * len(leaf.shape))[depth : len(leaf.shape)])
    sharding = NamedSharding(leaf.sharding.mesh, spec)

    def part_of(part):
        tensor = reader.read(part.name)
        if tensor.shape != tuple(part.shape):
            raise ConfigError(
                f"{reader.location}: {part.name} is {list(tensor.shape)}, and the architecture of "
                f"its config.json makes it {list(part.shape)}"
            )
        with np.errstate(over="ignore"):  # an overflow in the cast is infinite, and refused below
            value = np.asarray(part.to_ours(tensor), leaf.dtype)
        return jax.device_put(value, sharding)

    filled = None
    for part in parts:
        value = part_of(part)
        if not depth:
            filled = value
            continue
        if filled is None:  # allocated after a part's shape was checked against config.json
            zeros = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
            filled = jax.jit(zeros, out_shardings=leaf.sharding)()
        filled = _set(filled, value, np.array(part.index, np.int32))
    good = np.asarray(finite(filled, depth))
    if not good.all():
        name = next(part.name for part in parts if not good[part.index])
        raise ConfigError(
            f"{reader.file_of(name)}: {name} holds NaN or infinity; the model cannot compute with "
            "it. Download the file again; if it has them again, the published model is broken"
        )
    return filled


@functools.partial(jax.jit, donate_argnums=0)
def _set(stack, part, index):
    """stack[*index] = part, in place."""
    return stack.at[tuple(index)].set(part)


def whole_mesh(mesh: jax.sharding.Mesh | None = None) -> jax.sharding.Mesh:
    """`mesh`, or one that shards parameters over all devices."""
    return mesh or make_mesh(MeshConfig(data=1, fsdp=-1))


class Tensor(NamedTuple):
    """A tensor to write: its name and shape, and `read()`, which computes it when it is written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Any]


def tensors_of(config: TransformerConfig, read: Callable[[tuple], Any]) -> list[Tensor]:
    """The Hugging Face tensors of parameters, grouped by parameter.

    Args:
      read: (path of a parameter) -> array. It is called once per parameter if tensors are read in
        order, so that the host holds one at a time.
    """
    path, parameter = None, np.empty(0)  # the one that was read last

    def value_of(part):
        nonlocal path, parameter
        if path != part.path:
            large = parameter.nbytes > 1 << 24
            path, parameter = None, np.empty(0)  # frees it before the next is read
            if large:
                gc.collect()  # Orbax leaves reference cycles that hold restored arrays
            path, parameter = part.path, np.asarray(jax.device_get(read(part.path)))
        return part.to_hf(parameter[part.index])

    parts = slices(config)
    order = {path: i for i, path in enumerate(dict.fromkeys(part.path for part in parts))}
    return [
        Tensor(part.name, tuple(part.shape), functools.partial(value_of, part))
        for part in sorted(parts, key=lambda part: order[part.path])
    ]


def write_safetensors(
    directory: epath.PathLike,
    tensors: list[Tensor],
    dtype: str,
    stem: str = "model",
    limit: int = SHARD_BYTES,
) -> None:
    """Writes tensors in order, one at a time; more than `limit` bytes make several files and an
    index.

    Raises:
      ConfigError: one is not finite in `dtype`.
    """
    directory, kind = epath.Path(directory), DTYPES[dtype]
    groups: list[list[Tensor]] = [[]]
    room = limit
    for tensor in tensors:
        size = math.prod(tensor.shape) * kind.itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(tensor._replace(read=functools.partial(_cast, tensor, dtype)))
        room -= size
    weight_map = {}
    for number, group in enumerate(groups, 1):
        of_many = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        name = f"{stem}{of_many}.safetensors"
        weight_map |= dict.fromkeys((t.name for t in group), name)
        safetensors_files.write(directory / name, group, dtype)
    if len(groups) > 1:
        total = sum(math.prod(t.shape) for t in tensors) * kind.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _cast(tensor: Tensor, dtype: str) -> np.ndarray:
    value = tensor.read()
    with np.errstate(over="ignore"):
        cast = value.astype(DTYPES[dtype], copy=False)
    if not np.isfinite(cast).all():
        raise ConfigError(
            f"{tensor.name} is beyond {dtype}: it would be written with an infinity. Export with "
            "--dtype=bfloat16 or float32"
            if np.isfinite(value).all()
            else f"{tensor.name} holds NaN or infinity, and is not exported"
        )
    return cast
