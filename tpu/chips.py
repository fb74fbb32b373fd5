"""Specifications of accelerators by JAX's `device_kind`, and topologies to compile for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX is imported after the environment is set
    from jax.experimental.topologies import TopologyDescription

    from model.config import TransformerConfig

# A device is a chip; on TPU7x it is one of the two chiplets of a chip
# (cloud.google.com/tpu/docs/tpu7x); its figures are half of the chip's.

# Peak dense bfloat16 FLOP/s of one device, from the makers' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12 / 2,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# The generation in the names of slices of a device.
GENERATIONS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
               "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}  # fmt: skip
DEVICES_A_CHIP = {"TPU7x": 2}  # where that is not one

# Memory of one device, GiB, from Google's system architecture pages; programs get a little less.
HBM_GIB = {
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5": 95,
    "TPU v5p": 95,
    "TPU v6 lite": 32,
    "TPU7x": 192 / 2,
}

# Bandwidth of one device's memory, GB/s, from the same pages.
HBM_GB = {
    "TPU v4": 1200,
    "TPU v5 lite": 820,
    "TPU v5": 2765,
    "TPU v5p": 2765,
    "TPU v6 lite": 1638,
    "TPU7x": 7380 / 2,
}

# Clock of the TensorCore, GHz, which converts libtpu's cycles to seconds.
CLOCK_GHZ = {
    "TPU v4": 1.05,
    "TPU v5 lite": 1.5,
    "TPU v5": 1.75,
    "TPU v5p": 1.75,
    "TPU v6 lite": 1.75,
    "TPU7x": 2.2,
}

# Gigabytes a second that a device sends over one link to a neighbour, one way (a torus has two per
# dimension), and over the data-center network between slices (its share of the host's cards). From
# the same pages: 2,400 Gbit/s over 6 links (v4), 1,600 Gbit/s over 4, 1,200 GB/s over 6 both ways,
# 3,200 Gbit/s over 4, 1,200 GB/s over 6 both ways for two devices (TPU7x); 200 Gbit/s a host of 4
# chips (v4), 6.4 Tbit/s a pod of 256, 50 Gbit/s a chip, 25.6 Tbit/s a pod of 256, 100 Gbit/s for
# two devices (TPU7x).
LINK_GB = {
    "TPU v4": 50,
    "TPU v5 lite": 50,
    "TPU v5": 100,
    "TPU v5p": 100,
    "TPU v6 lite": 100,
    "TPU7x": 50,
}
DCN_GB = {
    "TPU v4": 6.25,
    "TPU v5 lite": 3.125,
    "TPU v5": 6.25,
    "TPU v5p": 6.25,
    "TPU v6 lite": 12.5,
    "TPU7x": 6.25,
}
# The same between the two devices of a chip: six times a link between chips.
DIE_GB = {"TPU7x": 600}

# Vector memory, KiB, that one instruction of a program may take: as in MaxText's recipes of v6e and
# TPU7x, for large tiles in matmuls. v4 has 16 MiB in all, of which libtpu's default is a part.
_SCOPED_VMEM = {
    "TPU v5 lite": 65472,
    "TPU v5": 65472,
    "TPU v5p": 65472,
    "TPU v6 lite": 98304,
    "TPU7x": 61440,
}


_NEVER = 1_000_000  # MiB of an operand, from which it is gathered in parts


def compiler_options(device: Any, models: Iterable[TransformerConfig] = ()) -> dict[str, str]:
    """Compiler options of a run's programs for a device.

    On TPU the lookup of embeddings and of the loss's logits stays on the TensorCore: on the
    SparseCore it takes more memory, and the compiled program cannot be read.

    Weights are gathered before a product. With few chips XLA by itself gathers and multiplies those
    of 256 MiB and more a shard at a time, in products too thin to be fast.

    Args:
      device: a `jax.Device`. models: the networks whose gradients are in the program. Between
        slices XLA sums the gradients of a layer while it computes the next one, for which it peels
        the first iteration of the loop. Layers with a pattern are a nested loop, which it would
        copy four times; for them this is disabled.
    """
    if device.platform != "tpu":
        return {}
    options = {
        "xla_tpu_offload_gather_to_sparsecore": "false",
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": str(_NEVER),
    }
    if size := _SCOPED_VMEM.get(device.device_kind):
        options["xla_tpu_scoped_vmem_limit_kib"] = str(size)
    if any(m.layer_pattern for m in models):
        options["xla_tpu_enable_collective_pipeliner"] = "false"
    return options


def topology(name: str, slices: int = 1) -> TopologyDescription:
    """The devices of a slice, which need not exist, as libtpu describes them.

    Args:
      name: generation and grid of chips, `v5e:4x4`, `v5p:4x4x4`, `tpu7x:2x2x1`; or the cloud's
        name, `v5e-16`, `v5p-128`, `tpu7x-8`.
      slices: number of slices, joined by the data-center network.

    Returns:
      The description. Whole cubes of v4, v5p and TPU7x and whole pods of v5e and v6e have their
      wrap-around links, without which all-gathers compile to something else.

    Raises:
      ValueError: libtpu is not installed or serves another process, or knows no such slice.
    """
    from jax.experimental import topologies

    if "-" in name:
        from tpu.slices import parse

        name = f"{name.replace('litepod', 'e').split('-')[0]}:{parse(name, '--topology').topology}"
    generation, _, grid = name.partition(":")
    try:
        sizes = [int(size) for size in grid.split("x")]
    except ValueError:
        sizes = []
    settings: dict[str, Any] = {}
    if generation == "v4":  # by default libtpu describes its two cores as two devices
        settings = dict(chip_config_name="megacore")
    if generation in ("v4", "v5p", "tpu7x") and len(sizes) == 3:
        wrap = tuple(size % 4 == 0 for size in sizes)
        if all(wrap):
            settings |= dict(wrap=wrap)
            if generation == "v5p":
                generation, settings = "v5", settings | dict(chip_config_name="megacore")
    elif generation in ("v5e", "v6e") and sizes == [16, 16]:
        settings = dict(wrap=(True, True, False))
    if settings or slices > 1:
        bounds = (1, 1, 1) if math.prod(sizes) == 1 else (2, 2, 1)
        settings |= dict(chips_per_host_bounds=bounds, num_slices=slices)
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=f"{generation}:{grid}", **settings
        )
    except Exception as e:  # JaxRuntimeError, or what loading libtpu raises
        if "lockfile" in str(e):
            raise ValueError(
                "libtpu serves one process at a time, and another process uses it; wait until that "
                "has ended, or delete /tmp/libtpu_lockfile if there is none"
            ) from e
        raise ValueError(
            f"--topology={name}: {str(e).splitlines()[0]}. Slices are written v5e:4x4, v5p:4x4x4, "
            "tpu7x:2x2x1 or v5e-16, v5p-128, tpu7x-8; libtpu comes with pip install 'jax[tpu]'"
        ) from e
