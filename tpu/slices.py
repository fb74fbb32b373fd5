"""TPU slices by name: their names in gcloud and GKE, their grid of chips and their hosts."""

from __future__ import annotations

import math
from typing import NamedTuple


class TpuSlice(NamedTuple):
    """A kind of slice.

    Attributes:
      accelerator: gcloud's name. runtime: software version of its machines. topology: grid of
        chips. gke: the node label. machine: GKE's type of its machines.
      hosts, chips: their numbers in one slice; a host has chips / hosts chips.
      device_kind: JAX's name of its devices (tpu/chips.py). devices: their number in one slice.
    """

    accelerator: str
    runtime: str
    topology: str
    gke: str
    machine: str
    hosts: int
    chips: int
    device_kind: str
    devices: int


class _Generation(NamedTuple):
    """A generation of chips.

    Attributes:
      accelerator: gcloud's prefix. runtime, gke, device_kind: as of `TpuSlice`. machine: GKE's
        prefix. cores: TensorCores of a chip, which its names count. devices: of a chip, in JAX: the
        two TensorCores of v4 and v5p are one device, those of TPU7x one each.
      grids: its slices.
    """

    accelerator: str
    runtime: str
    gke: str
    machine: str
    device_kind: str
    cores: int
    devices: int
    grids: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
          "8x16x16")  # fmt: skip
# From cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x,runtimes} and Google's xpk
# (core/system_characteristics.py). TPU7x is sold through GKE; its runtime version is that of
# Google's accelerator-microbenchmarks, and `doctor` says whether a zone has it.
_GENERATIONS = {
    "v4": _Generation(
        "v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu", "TPU v4", 2, 1, _CUBES
    ),
    "v5e": _Generation(
        "v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu", "TPU v5 lite",
        1, 1, _FLAT,
    ),
    "v5p": _Generation(
        "v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu", "TPU v5", 2, 1, _CUBES
    ),
    "v6e": _Generation(
        "v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard", "TPU v6 lite", 1, 1, _FLAT
    ),
    "tpu7x": _Generation(
        "tpu7x", "v2-alpha-tpu7-ubuntu2404", "tpu7x", "tpu7x-standard", "TPU7x", 2, 2,
        ("1x1x1", *_CUBES, "16x16x16"),
    ),
}  # fmt: skip
NAMED = "v5e-16, v6e-256 (chips), v4-32, v5p-128 or tpu7x-128 (cores, two a chip)"


def parse(name: str, flag: str = "--accelerator") -> TpuSlice:
    """The slice of a name: `v5e-16` (or `v5litepod-16`) and `v6e-256` count chips; `v4-32`,
    `v5p-128` and `tpu7x-128` count cores, two a chip.

    Raises:
      ValueError: there is no such slice; the message lists those that exist.
    """
    generation, _, size = name.replace("v5litepod", "v5e").partition("-")
    if generation not in _GENERATIONS:
        raise ValueError(f"{flag}={name}: write {NAMED}")
    row = _GENERATIONS[generation]
    grids = {str(math.prod(map(int, grid.split("x"))) * row.cores): grid for grid in row.grids}
    if size not in grids:
        raise ValueError(f"{flag}={name}: {generation} comes with {', '.join(grids)}")
    chips = int(size) // row.cores
    hosts = 1 if chips <= 4 or (chips == 8 and row.cores == 1) else chips // 4
    return TpuSlice(
        f"{row.accelerator}-{size}", row.runtime, grids[size], row.gke,
        f"{row.machine}-{chips // hosts}t", hosts, chips, row.device_kind, chips * row.devices,
    )  # fmt: skip
