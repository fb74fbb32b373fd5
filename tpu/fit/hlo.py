"""Collectives, kernels and estimated cycles of a compiled program, parsed from its HLO text.

`cost_analysis()` counts the body of a loop once; here every computation is counted once per run.
The loops of a train step are `lax.scan`s: they count from 0 to a constant in their condition, or
from 1, where the compiler peeled the first iteration.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2}

_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
# Between slices a collective is a transfer through the host, of each chip's own share.
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
BETWEEN_SLICES = "between slices"
_CALLED_LISTS = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BOUND = re.compile(r"^(\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LISTS = r"\{(?:\{[\d,]*\},?)*\}"
_GROUPS = re.compile(
    r"replica_groups=(?:mesh\[[^\]]*\] ?\{[^}]*\}"
    rf"|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|{_LISTS})|source_target_pairs={_LISTS}"
)
_UNKNOWN = 2**63 - 1  # the estimate of an instruction that is offloaded to the SparseCore


class Shape(NamedTuple):
    """An array's dtype in HLO's name, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> float:
        bits = re.search(r"\d+", self.dtype)
        size = _BYTES.get(self.dtype) or (int(bits[0]) / 8 if bits else 0)
        return size * math.prod(self.dims)


class Collective(NamedTuple):
    """One collective.

    Attributes:
      kind: one of `COLLECTIVES`. shape: the largest array that it reads or writes on a device.
      times: number of its runs. groups: HLO's text of the devices in it, or `BETWEEN_SLICES`.
    """

    kind: str
    shape: Shape
    times: int
    groups: str = ""


class Program(NamedTuple):
    """A parsed program.

    Attributes:
      collectives: of the whole program. kernels: {name of a Pallas kernel: number of its runs}.
      cycles: estimated for one device, without kernels and waiting for collectives.
      kernel_arrays: {name of a kernel: {the arrays it reads and writes: number of its runs}}.
      gathered: bytes that are written by gathers for which the compiler has no estimate.
    """

    collectives: list[Collective]
    kernels: dict[str, int]
    cycles: int
    kernel_arrays: dict[str, dict[tuple[Shape, ...], int]]
    gathered: float = 0.0


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
      name: of its result. kind: its opcode. rest: HLO's text after the opcode: operands and
        attributes. shapes: of its result; several of a tuple.
    """

    name: str
    kind: str
    rest: str
    shapes: tuple[Shape, ...]

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        names = _CALLED.findall(self.rest)
        for several in _CALLED_LISTS.findall(self.rest):
            names += [n.strip().lstrip("%") for n in several.split(",")]
        return names

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 if it has none."""
        match = _CYCLES.search(self.rest)
        return int(match[1]) if match and int(match[1]) != _UNKNOWN else 0


class Module(NamedTuple):
    """The lines of a module.

    Attributes:
      computations: {name: its instructions}. times: {name: number of its runs}.
    """

    computations: dict[str, list[Instruction]]
    times: dict[str, int]


def parse(text: str) -> Module:
    """The instructions of an optimized module (`compiled.as_text()`).

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, list[Instruction]] = defaultdict(list)
    entry, name = "", ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[2]
            entry = name if header[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            shapes = tuple(
                Shape(d, tuple(int(n) for n in dims.split(",") if n))
                for d, dims in _SHAPE.findall(match[2])
            )
            computations[name].append(Instruction(match[1], match[3], match[4], shapes))
    if not entry:
        raise ValueError("this is not an HLO module: it has no ENTRY computation")
    return Module(computations, _runs(computations, entry))


def read(text: str) -> Program:
    """Parses the text of an optimized module (`compiled.as_text()`)."""
    computations, times = parse(text)
    lines = itertools.chain.from_iterable(computations.values())
    fused = {name for i in lines if i.kind == "fusion" for name in i.called}
    gathers = {n for n in fused if any(i.kind == "gather" for i in computations[n])}
    collectives: dict[Any, Collective] = {}
    kernels: dict[str, int] = defaultdict(int)
    arrays_of: dict[str, dict[tuple[Shape, ...], int]] = defaultdict(lambda: defaultdict(int))
    cycles, gathered = 0, 0.0
    for name, instructions in computations.items():
        shapes = {i.name: i.shapes for i in instructions}
        for instruction in instructions:
            result, kind, rest, _ = instruction
            cycles += times[name] * instruction.cycles
            if not instruction.cycles and gathers.intersection(instruction.called):
                gathered += times[name] * sum(s.bytes for s in instruction.shapes)
            base, arrays = kind.removesuffix("-start"), []
            if base in COLLECTIVES or kind == "custom-call":
                names = (result, *instruction.operands)
                arrays = [s for n in names for s in shapes.get(n, ())]
            if base in COLLECTIVES:
                largest = max(arrays, key=lambda s: s.bytes)
                # A collective that overlaps with computation is in each of the overlapping fusions.
                # Elsewhere those of a `shard_map` have one channel, and each is another.
                channel = _CHANNEL.search(rest) if name in fused else None
                key = channel[1] if channel else (name, result)
                other = collectives.get(key)
                if other is None or other.times * other.shape.bytes < times[name] * largest.bytes:
                    groups = _GROUPS.search(rest)
                    groups = groups[0] if groups else ""
                    collectives[key] = Collective(base, largest, times[name], groups)
            if kind == "send" and (match := _BETWEEN.search(rest)):
                largest = max(instruction.shapes, key=lambda s: s.bytes)
                transfer = match[1].lower().replace("_", "-")
                key = name, result
                collectives[key] = Collective(transfer, largest, times[name], BETWEEN_SLICES)
            if kind == "custom-call" and 'custom_call_target="tpu_custom_call"' in rest:
                kernel = re.sub(r"\.\d+$", "", result)
                kernels[kernel] += times[name]
                arrays_of[kernel][tuple(arrays)] += times[name]
    running = [c for c in collectives.values() if c.times]
    kernel_arrays = {kernel: dict(runs) for kernel, runs in arrays_of.items()}
    return Program(running, dict(kernels), cycles, kernel_arrays, gathered)


def _runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    """{computation: number of its runs}. XLA prints a computation before those that call it."""
    times = defaultdict(int, {entry: 1})
    for name in reversed(list(computations)):
        for instruction in computations[name]:
            is_loop = instruction.kind == "while"
            count = _trips(computations, name, instruction.rest) if is_loop else 1
            for other in instruction.called:
                times[other] += times[name] * count
    return times


def _trips(computations: dict[str, list[Instruction]], caller: str, rest: str) -> int:
    """Iterations of a while loop: the constant in its condition, less the start of its counter."""
    condition = computations[re.findall(r"condition=%?([\w.\-]+)", rest)[0]]
    constants = [_BOUND.match(i.rest) for i in condition if i.kind == "constant"]
    bounds = [int(match[1]) for match in constants if match]
    if len(bounds) != 1:
        return 1
    counters = [i.rest for i in condition if i.kind == "get-tuple-element"]
    if len(counters) != 1:
        return bounds[0]
    place = int(re.findall(r"index=(\d+)", counters[0])[0])
    instructions = {i.name: (i.kind, i.rest) for i in computations[caller]}

    def operand(rest, n=0):
        return instructions.get(re.findall(r"%([\w.\-]+)", rest.split(")")[0])[n], ("", ""))

    kind, r = operand(rest)
    if kind == "tuple":
        kind, r = operand(r, place)
    while kind == "copy":
        kind, r = operand(r)
    start = _BOUND.match(r) if kind == "constant" else None
    return bounds[0] - (int(start[1]) if start else 0)


def gathers_of_whole_parameters(program: Program, params: Any, num_layers: int) -> list[Collective]:
    """All-gathers that return a parameter of all layers at once, over some or all mesh axes.

    Args:
      params: tree of `jax.ShapeDtypeStruct` with shardings; those that start with `num_layers` are
        stacked over layers.
    """
    import jax

    forms = set()
    for leaf in jax.tree.leaves(params):
        if leaf.ndim > 2 and leaf.shape[0] == num_layers:
            forms |= _gathered_forms(leaf)
    return [
        c for c in program.collectives if c.kind == "all-gather" and _sorted(c.shape.dims) in forms
    ]


def _sorted(dims) -> tuple[int, ...]:
    """Dimensions regardless of their order, which the compiler chooses."""
    return tuple(sorted(d for d in dims if d > 1))


def _gathered_forms(leaf) -> set[tuple[int, ...]]:
    """Dimensions that a gather of a stacked parameter may return: some sharded ones are whole, and
    neighbours other than the layers may be merged."""
    split = leaf.sharding.shard_shape(leaf.shape)
    forms = set()
    for dims in itertools.product(*zip(leaf.shape, split, strict=True)):
        if dims == split:
            continue
        for merges in itertools.product((False, True), repeat=len(dims) - 2):
            merged = [*dims[:2]]
            for size, merge in zip(dims[2:], merges, strict=True):
                merged[-1:] = [merged[-1] * size] if merge else [merged[-1], size]
            forms.add(_sorted(merged))
    return forms
