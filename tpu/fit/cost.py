"""Estimated time of a compiled step: libtpu's cycles, kernels by their shapes, links by bytes.

This is not a measurement. The compiler's cycles of each instruction are used as they are. Pallas
kernels of attention and of experts have none and are assumed to reach half of the chip's peak;
gathers that have none, half of its memory's bandwidth. Collectives are assumed to use all links of
the physical dimensions of the torus that their devices span, both ways at once. docs/fit.md
compares the estimate with published step times.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tpu import chips
from tpu.fit.hlo import BETWEEN_SLICES, Collective, Program, Shape

if TYPE_CHECKING:  # JAX is imported after the environment is set
    from jax.sharding import Mesh

# Share of the peak that a kernel reaches.
KERNEL_EFFICIENCY = 0.5
# Share of the memory's bandwidth at which a gather reads and writes its rows.
GATHER_EFFICIENCY = 0.5
# {end of a splash attention kernel's name: matmuls of a tile of queries with a tile of keys}:
# scores and outputs; scores, dP, dV and dK; scores, dP and dQ.
_MATMULS = {"fwd": 2, "dkv": 4, "dq": 3}

_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass
class Traffic:
    """The traffic of one kind of collective along some mesh axes in a step.

    Attributes:
      axes: names of mesh axes, joined by `+`. network: `ici` within a slice, `dcn` between slices.
      count: number of its runs. bytes: that a device sends. seconds: to send them, without other
        traffic.
    """

    axes: str
    network: str
    kind: str
    count: int
    bytes: float
    seconds: float


class Estimate(NamedTuple):
    """Seconds of a step by use: `step` if all overlap, `serial` if none do."""

    compute: float
    kernels: float
    ici: float
    dcn: float
    traffic: list[Traffic]

    @property
    def step(self) -> float:
        return max(self.compute + self.kernels, self.ici, self.dcn)

    @property
    def serial(self) -> float:
        return self.compute + self.kernels + self.ici + self.dcn


def estimate(
    program: Program, mesh: Mesh, attention_share: float = 0.5, expert_share: float = 1.0
) -> Estimate:
    """The estimate of a program.

    Args:
      mesh: the mesh that the program was compiled for.
      attention_share: share of all pairs of a query and a key in a row that attention computes,
        over all layers (1/2 for full causal attention).
      expert_share: share of the rows of a grouped matmul that belong to an expert on the device,
        where all experts have as many tokens.

    Raises:
      ValueError: the clock or link rate of this kind of chip is unknown.
    """
    kind = mesh.devices.flat[0].device_kind
    if kind not in chips.CLOCK_GHZ:
        raise ValueError(f"no clock and link rates of {kind!r} are known; add it to tpu/chips.py")
    flops = sum(
        times * kernel_flops(name, arrays, attention_share, expert_share)
        for name, runs in program.kernel_arrays.items()
        for arrays, times in runs.items()
    )
    traffic = [_traffic(c, mesh) for c in program.collectives]
    merged: dict[tuple[str, str, str], Traffic] = {}
    for t in traffic:
        key = t.axes, t.network, t.kind
        total = merged.get(key, Traffic(*key, 0, 0.0, 0.0))
        merged[key] = Traffic(
            *key, total.count + t.count, total.bytes + t.bytes, total.seconds + t.seconds
        )
    traffic = list(merged.values())
    gathers = 2 * program.gathered / (chips.HBM_GB[kind] * 1e9 * GATHER_EFFICIENCY)
    return Estimate(
        program.cycles / (chips.CLOCK_GHZ[kind] * 1e9) + gathers,
        flops / (chips.PEAK_FLOPS[kind] * KERNEL_EFFICIENCY),
        sum(t.seconds for t in traffic if t.network == "ici"),
        sum(t.seconds for t in traffic if t.network == "dcn"),
        sorted(traffic, key=lambda t: -t.seconds),
    )


def kernel_flops(
    name: str, arrays: tuple[Shape, ...], attention_share: float, expert_share: float = 1.0
) -> float:
    """FLOPs of one call of a splash attention kernel or a grouped matmul; 0 for another kernel.

    Args:
      arrays: those that it reads and writes. Queries are the largest [..., K, G, T, N] among them,
        keys the largest [..., K, S, N]; a single row has no batch axis. Of a grouped matmul, the
        weights or their gradient are [n, D, F], its rows [R, D] and [R, F].
      attention_share, expert_share: of `estimate`.

    Raises:
      ValueError: a kernel without such arrays.
    """
    if name in ("gmm", "tgmm"):
        rows = max((s.dims[0] for s in arrays if len(s.dims) == 2), default=0)
        matrices = [math.prod(s.dims[1:]) for s in arrays if len(s.dims) == 3]
        if not rows or not matrices:
            raise ValueError(f"{name} has no rows or weights; correct tpu/fit/cost.py")
        return 2.0 * rows * matrices[0] * expert_share
    match = re.search(r"splash.*_(fwd|dkv|dq)(_|$)", name)
    if not match:
        return 0.0
    rank = max((len(s.dims) for s in arrays), default=0)
    if rank < 4:
        raise ValueError(f"{name} has no queries among its arrays; correct tpu/fit/cost.py")
    *lead, G, T, N = max((s.dims for s in arrays if len(s.dims) == rank), key=math.prod)
    keys = [s.dims for s in arrays if [*s.dims[:-2], s.dims[-1]] == [*lead, N]]
    S = max((dims[-2] for dims in keys), default=T)
    return 2.0 * _MATMULS[match[1]] * math.prod(lead) * G * T * S * N * attention_share


def device_groups(attribute: str, devices: int) -> np.ndarray:
    """The ids [groups, size] of the devices that exchange data in a collective.

    Args:
      attribute: HLO's `replica_groups` (lists, an iota, or axes of a mesh) or
        `source_target_pairs`.
    """
    everyone = np.arange(devices)
    if match := re.match(r"replica_groups=mesh\[(.*?)\] ?\{(.*)\}", attribute):
        sizes = {n: int(size) for n, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        shape, chosen = [], []
        wanted = {m[1]: m for m in _AXIS.finditer(match[2])}
        for name, size in sizes.items():
            before, part = 1, size
            if name in wanted and wanted[name][2]:
                before, part = int(wanted[name][2]), int(wanted[name][3])
            if name in wanted:
                chosen.append(len(shape) + 1)
            shape += [before, part, size // before // part]
        rest = [i for i in range(len(shape)) if i not in chosen]
        size = math.prod(shape[i] for i in chosen)
        return everyone.reshape(shape).transpose(*rest, *chosen).reshape(-1, size)
    iota = r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if match := re.match(iota, attribute):
        shape, dims, order = (
            [int(n) for n in text.split(",")] if text else None for text in match.groups()
        )
        ids = everyone.reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape)
    lists = [[int(n) for n in m.split(",")] for m in re.findall(r"\{([\d,]+)\}", attribute)]
    return np.array(lists) if lists else everyone[None]


def _traffic(c: Collective, mesh) -> Traffic:
    flat = mesh.devices.reshape(-1)
    kind = flat[0].device_kind
    if c.groups == BETWEEN_SLICES:  # `data` alone runs between them (model/sharding.py)
        count = len({d.slice_index for d in flat})
        moved = _sent(c.kind, c.shape.bytes, count)
        seconds = moved / (chips.DCN_GB[kind] * 1e9)
        return Traffic("data", "dcn", c.kind, c.times, c.times * moved, c.times * seconds)
    rows = device_groups(c.groups, mesh.size)
    pairs = c.kind == "collective-permute"
    if pairs:
        rows = rows[rows[:, 0] != rows[:, 1]]
    if not rows.size or rows.shape[1] == 1:
        return Traffic("none", "ici", c.kind, c.times, 0.0, 0.0)
    places = np.stack(np.unravel_index(rows, mesh.devices.shape))  # [axes, groups, size]
    varies = (places != places[..., :1]).any((1, 2))
    axes = "+".join(name for name, varied in zip(mesh.axis_names, varies) if varied)
    coordinates = np.array([flat[i].coords for i in rows[0]])
    dimensions = int((coordinates != coordinates[0]).any(0).sum())
    links = 1 if pairs else 2 * (dimensions or 1)
    rate = chips.LINK_GB[kind] * links
    if not dimensions and kind in chips.DIE_GB:  # the devices of one chip
        rate = chips.DIE_GB[kind]
    moved = _sent(c.kind, c.shape.bytes, rows.shape[1])
    seconds = moved / (rate * 1e9)
    return Traffic(axes, "ici", c.kind, c.times, c.times * moved, c.times * seconds)


def _sent(kind: str, size: float, members: int) -> float:
    """Bytes that each of `members` devices sends around a ring, for a largest array of `size`."""
    if kind == "collective-permute":
        return size
    return size * (members - 1) / members * (2 if kind == "all-reduce" else 1)
