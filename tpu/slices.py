"""TPU slices by name: their names in gcloud and GKE, their grid of chips and their hosts."""

from __future__ import annotations

import math
from typing import NamedTuple


class TpuSlice(NamedTuple):
    """A kind of slice.

    Attributes:
      accelerator: gcloud's name. runtime: software version of its machines. topology: grid of
        chips. gke: the node label. hosts, chips: their numbers in one slice; a host has
        chips / hosts chips.
    """

    accelerator: str
    runtime: str
    topology: str
    gke: str
    hosts: int
    chips: int


# {generation: (gcloud's prefix, runtime version, GKE's node label, cores per chip in the name)}
_GENERATIONS = {
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1),
    "v5p": ("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", 2),
    "v6e": ("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", 1),
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
          "8x16x16")  # fmt: skip


def parse(name: str, flag: str = "--accelerator") -> TpuSlice:
    """The slice of a name: `v5e-16` (or `v5litepod-16`), `v5p-128` (cores, two a chip), `v6e-256`.

    Raises:
      ValueError: there is no such slice; the message lists those that exist.
    """
    generation, _, size = name.replace("v5litepod", "v5e").partition("-")
    if generation not in _GENERATIONS:
        raise ValueError(f"{flag}={name}: write v5e-16, v5p-128 or v6e-256")
    prefix, runtime, gke, cores = _GENERATIONS[generation]
    grids = {
        str(math.prod(map(int, grid.split("x"))) * cores): grid
        for grid in (_CUBES if generation == "v5p" else _FLAT)
    }
    if size not in grids:
        raise ValueError(f"{flag}={name}: {generation} comes with {', '.join(grids)}")
    chips = int(size) // cores
    hosts = 1 if chips <= 4 or (chips == 8 and cores == 1) else chips // 4
    return TpuSlice(f"{prefix}-{size}", runtime, grids[size], gke, hosts, chips)
