"""The mesh, the one table from logical axes to mesh axes, and the checks around them.

Modules name logical axes only. Parameters use `PARAMETER_AXES`, activations `ACTIVATION_AXES`; the
tables say which mesh axes shard each. A name that is in no table is an error, as is an array with
two dimensions on one mesh axis. `None` in a table means replicated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ranges
from ranges import Range

MESH_AXES = ("data", "fsdp", "expert", "sequence", "tensor")

PARAMETER_AXES = {
    "vocab": "tensor",
    "embed": ("fsdp", "sequence"),
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "replicated_kv_heads": None,
    "head_dim": None,
    "expert": "expert",
    "router": None,
    "layers": None,
    "norm": None,
    "scalar": None,
}
BATCH_AXES = ("data", "fsdp", "expert")
ACTIVATION_AXES = {
    "act_batch": BATCH_AXES,
    "act_length": "sequence",
    "act_slot": None,
    "act_embed": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_replicated_kv_heads": None,
    "act_head_dim": None,
    "act_mlp": "tensor",
    "act_vocab": "tensor",
    "act_layers": None,
}


KV_HINT = (
    ", or set model.replicate_kv_heads=True: each device then holds all key and value heads and "
    "computes those it needs"
)


class ShardingError(ValueError):
    """A name without a rule, a mesh axis used twice, or a size the mesh does not divide."""


Axis = Annotated[int, Range(1, 2**24, also=-1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. At most one is -1: the remaining devices.

    By default that is `fsdp`: a replica of a large model and its optimizer fits no single chip.

    Attributes:
      data: replicas that share no parameter; fsdp: shards of parameters and batch;
      expert: shards of the experts (model/layers/moe.py), and of the batch;
      sequence: shards of a row's length (model/context_parallel.py), and with fsdp of the
        parameters;
      tensor: shards of heads, mlp and vocabulary.
    """

    data: Axis = 1
    fsdp: Axis = -1
    expert: Axis = 1
    sequence: Axis = 1
    tensor: Axis = 1

    def __post_init__(self):
        ranges.check(self, "mesh.")

    def shape(self, num_devices: int) -> tuple[int, ...]:
        sizes = [getattr(self, name) for name in MESH_AXES]
        text = ", ".join(f"{n}={s}" for n, s in zip(MESH_AXES, sizes, strict=True))
        if sizes.count(-1) > 1:
            raise ShardingError(f"mesh {text}: at most one of them is -1")
        known = math.prod(s for s in sizes if s != -1)
        if -1 in sizes and num_devices % known == 0:
            sizes[sizes.index(-1)] = num_devices // known
        if math.prod(sizes) != num_devices:
            raise ShardingError(
                f"mesh {text} does not make {num_devices} devices; set its axes so that "
                "their product is the number of devices, or one axis to -1"
            )
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (all visible ones by default), with axes `MESH_AXES`.

    With several TPU slices, only `data` spans the data-center network between them.

    Raises:
      ShardingError: sizes that do not make these devices; `data` that the slices do not divide.
    """
    devices = jax.devices() if devices is None else devices
    shape = config.shape(len(devices))
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    # Explicit axes, JAX's default, break Linen's partitioned init.
    # A mesh axis may take part of a physical axis: 16x16 chips make fsdp 64 × tensor 4.
    split = dict(allow_split_physical_axes=True)
    if slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, **split)
    elif shape[0] % slices:
        raise ShardingError(
            f"mesh.data={shape[0]} on {slices} slices: only mesh.data spans slices; set "
            f"mesh.data to a multiple of {slices}"
        )
    else:
        within, between = (shape[0] // slices, *shape[1:]), (slices, *[1] * (len(shape) - 1))
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, **split)
    return Mesh(grid, MESH_AXES, (AxisType.Auto,) * len(MESH_AXES))


def partition_spec(
    names: Sequence[str | None], table: Mapping[str, str | tuple[str, ...] | None] = PARAMETER_AXES,
    label: str = "an array",
) -> P:  # fmt: skip
    """The PartitionSpec of an array whose dimensions have these logical names.

    Raises:
      ShardingError: a name has no rule, or two dimensions want the same mesh axis.
    """
    entries, used = [], {}
    for name in names:
        if name is None or name not in table:
            raise ShardingError(
                f"{label} {tuple(names)}: no sharding rule for {name!r}; add a row to "
                "model/sharding.py (None replicates)"
            )
        entry = table[name]
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            if axis in used:
                raise ShardingError(
                    f"{label} {tuple(names)}: {used[axis]!r} and {name!r} both want mesh axis "
                    f"{axis!r}; an array can use a mesh axis once"
                )
            used[axis] = name
        entries.append(entry)
    return P(*entries)


def constrain(
    x: jax.Array, *names: str | None,
    table: Mapping[str, str | tuple[str, ...] | None] = ACTIVATION_AXES,
) -> jax.Array:  # fmt: skip
    """Constrains the sharding of an activation, or of a parameter with its `table`, on the current
    mesh (`jax.set_mesh`), if any."""
    spec = partition_spec(names, table, "activation")
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def platform() -> str:
    """The platform of the current mesh: with ahead-of-time compilation, not this machine's."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device else jax.default_backend()


def check_divisible(
    shape: Sequence[int], spec: P, mesh: Mesh, label: str, names: Sequence[str | None] = ()
) -> None:
    for i, (size, entry) in enumerate(zip(shape, spec, strict=False)):
        axes = (entry,) if isinstance(entry, str) else entry or ()
        parts = math.prod(mesh.shape[a] for a in axes)
        if size % parts:
            raise ShardingError(
                f"{label}: dimension {i} of {tuple(shape)} is {size}, which mesh axes "
                f"{'×'.join(axes)} = {parts} do not divide; change the size or the mesh"
                + (KV_HINT if "kv_heads" in names[i : i + 1] else "")
            )


def parameter_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Shardings of a tree of `nn.Partitioned` leaves (from `jax.eval_shape` of a Linen init).

    Args:
      boxed: tree of `nn.Partitioned`, each holding a ShapeDtypeStruct and its logical names.
      mesh: the device mesh.

    Returns:
      The same tree, unboxed, of `NamedSharding`.

    Raises:
      ShardingError: a leaf names no axes, an unknown one, one twice, or a size is not divided.
    """

    def place(path, leaf):
        label = "parameter " + jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, nn.Partitioned):
            raise ShardingError(f"{label} has no logical axes; use nn.with_logical_partitioning")
        spec = partition_spec(leaf.names, PARAMETER_AXES, label)
        check_divisible(leaf.value.shape, spec, mesh, label, leaf.names)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        place, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
    )


def decoding_mesh(mesh: Mesh, times: int) -> Mesh:
    """A mesh of the same devices with `times` as many shards of heads and mlp, taken from `fsdp`.

    Raises:
      ShardingError: fsdp is not a multiple, or `expert` or `sequence` is not 1.
    """
    data, fsdp, expert, seq, tensor = mesh.devices.shape
    if fsdp % times or (times > 1 and expert * seq > 1):
        raise ShardingError(
            f"{times} times as many shards for decoding take their devices from mesh.fsdp={fsdp}, "
            f"which is no multiple, or mesh.expert={expert} and mesh.sequence={seq} are not 1"
        )
    shape = (data, fsdp // times, expert, seq, tensor * times)
    return Mesh(mesh.devices.reshape(shape), MESH_AXES, mesh.axis_types)


def decoding_shardings(params: Any, mesh: Mesh) -> Any:
    """Shardings for decoding: over `tensor` and `expert` alone, so that no weight is gathered at
    every token.

    Args:
      params: tree of arrays, or shapes with shardings.

    Raises:
      ShardingError: `tensor` does not divide heads, key heads or the mlp.
    """
    decoding_axes = ("tensor", "expert")

    def place(path, x):
        axes = ((a,) if isinstance(a, str) else a or () for a in x.sharding.spec)
        spec = P(*(tuple(n for n in names if n in decoding_axes) or None for names in axes))
        label = "for decoding, " + jax.tree_util.keystr(path, simple=True, separator="/")
        check_divisible(x.shape, spec, mesh, label)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, params)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over the batch axes; other dimensions are not split."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which of a batch's `rows` rows this process's devices hold, ascending.

    Processes hold the same rows where `tensor` or `sequence` spans several of them, and rows that
    are not contiguous where a mesh follows the links of a slice.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[index] for index in indices.values()]))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """The `local_rows` of a batch (tree of numpy arrays) -> global arrays sharded by row."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )
