"""How long a compiled step will take: libtpu's cycles, kernels from their shapes, links by bytes.

An estimate, not a measurement. What the compiler says of each instruction is taken at its word; a
Pallas kernel, of which it says nothing, is taken to reach half of the chip's peak; a collective to
use all links of the physical dimensions of the torus that its devices span, both ways at once.
docs/fit.md compares it with published step times.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from tpu import chips
from tpu.fit.hlo import BETWEEN_SLICES, Collective, Program, Shape

# Of its peak, what an attention kernel reaches.
KERNEL_EFFICIENCY = 0.5
# Matmuls of a tile of queries with a tile of keys in splash attention, by what its name ends with:
# scores and outputs; scores, dP, dV and dK; scores, dP and dQ.
_MATMULS = {"fwd": 2, "dkv": 4, "dq": 3}

_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


class Traffic(NamedTuple):
    """What one kind of collective moves along some mesh axes in a step.

    Attributes:
      axes: names of mesh axes, joined by `+`. network: `ici` within a slice, `dcn` between slices.
      count: how often. bytes: that a device sends. seconds: that takes, with nothing else going on.
    """

    axes: str
    network: str
    kind: str
    count: int
    bytes: float
    seconds: float


class Estimate(NamedTuple):
    """Seconds of a step, by what they are spent on. `step` does all of it at once, `serial` one
    after another."""

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


def estimate(program: Program, mesh, attention_share: float = 0.5) -> Estimate:
    """Args:
    mesh: that the program was compiled for. attention_share: of all pairs of a query and a key in a
      row, those that attention computes, over all layers (1/2 where it is causal and whole).

    Raises:
      ValueError: of this kind of chip no clock or link rate is known.
    """
    kind = mesh.devices.flat[0].device_kind
    if kind not in chips.CLOCK_GHZ:
        raise ValueError(f"no clock and link rates of {kind!r} are known; add it to tpu/chips.py")
    flops = sum(
        times * kernel_flops(name, program.kernel_arrays[name], attention_share)
        for name, times in program.kernels.items()
    )
    traffic = [_traffic(c, mesh) for c in program.collectives]
    merged = defaultdict(lambda: [0, 0.0, 0.0])
    for t in traffic:
        total = merged[t[:3]]
        for i, value in enumerate(t[3:]):
            total[i] += value
    traffic = [Traffic(*key, *total) for key, total in merged.items()]
    return Estimate(
        program.cycles / (chips.CLOCK_GHZ[kind] * 1e9),
        flops / (chips.PEAK_FLOPS[kind] * KERNEL_EFFICIENCY),
        sum(t.seconds for t in traffic if t.network == "ici"),
        sum(t.seconds for t in traffic if t.network == "dcn"),
        sorted(traffic, key=lambda t: -t.seconds),
    )


def kernel_flops(name: str, arrays: tuple[Shape, ...], share: float) -> float:
    """FLOPs of one call of a splash attention kernel; 0 of another kernel.

    Args:
      arrays: it reads and writes. Queries are the largest [..., K, G, T, N] among them, keys the
        largest [..., K, S, N]; a single row has no axis of its own.

    Raises:
      ValueError: a splash kernel without such arrays.
    """
    found = re.search(r"splash.*_(fwd|dkv|dq)(_|$)", name)
    if not found:
        return 0.0
    rank = max((len(s.dims) for s in arrays), default=0)
    if rank < 4:
        raise ValueError(f"{name} has no queries among its arrays; mend tpu/fit/cost.py")
    *lead, G, T, N = max((s.dims for s in arrays if len(s.dims) == rank), key=math.prod)
    keys = [s.dims for s in arrays if [*s.dims[:-2], s.dims[-1]] == [*lead, N]]
    S = max((dims[-2] for dims in keys), default=T)
    return 2.0 * _MATMULS[found[1]] * math.prod(lead) * G * T * S * N * share


def groups(where: str, devices: int) -> np.ndarray:
    """The devices that take part in a collective with each other, [groups, size] ids.

    Args:
      where: HLO's `replica_groups` (lists, an iota, or axes of a mesh) or `source_target_pairs`.
    """
    everyone = np.arange(devices)
    if found := re.match(r"replica_groups=mesh\[(.*?)\] ?\{(.*)\}", where):
        sizes = {n: int(size) for n, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        shape, chosen = [], []
        wanted = {m[1]: m for m in _AXIS.finditer(found[2])}
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
    if found := re.match(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", where):
        shape, dims, order = (
            [int(n) for n in text.split(",")] if text else None for text in found.groups()
        )
        ids = everyone.reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape)
    lists = [[int(n) for n in m.split(",")] for m in re.findall(r"\{([\d,]+)\}", where)]
    return np.array(lists) if lists else everyone[None]


def _traffic(c: Collective, mesh) -> Traffic:
    flat = mesh.devices.reshape(-1)
    kind = flat[0].device_kind
    if c.where == BETWEEN_SLICES:  # `data` alone runs between them (model/sharding.py)
        count = len({d.slice_index for d in flat})
        moved = _sent(c.kind, c.shape.bytes, count)
        seconds = moved / (chips.DCN_GB[kind] * 1e9)
        return Traffic("data", "dcn", c.kind, c.times, c.times * moved, c.times * seconds)
    rows = groups(c.where, mesh.size)
    pairs = c.kind == "collective-permute"
    if pairs:
        rows = rows[rows[:, 0] != rows[:, 1]]
    if not rows.size or rows.shape[1] == 1:
        return Traffic("none", "ici", c.kind, c.times, 0.0, 0.0)
    places = np.stack(np.unravel_index(rows, mesh.devices.shape))  # [axes, groups, size]
    varies = (places != places[..., :1]).any((1, 2))
    axes = "+".join(name for name, is_one in zip(mesh.axis_names, varies) if is_one)
    coordinates = np.array([flat[i].coords for i in rows[0]])
    dimensions = int((coordinates != coordinates[0]).any(0).sum()) or 1
    links = 1 if pairs else 2 * dimensions
    moved = _sent(c.kind, c.shape.bytes, rows.shape[1])
    seconds = moved / (chips.LINK_GB[kind] * 1e9 * links)
    return Traffic(axes, "ici", c.kind, c.times, c.times * moved, c.times * seconds)


def _sent(kind: str, size: float, members: int) -> float:
    """Bytes that each of `members` sends where the largest array has `size`, around a ring."""
    if kind == "collective-permute":
        return size
    return size * (members - 1) / members * (2 if kind == "all-reduce" else 1)
