"""The compiler's cycles of a program, by kind of operation, pass and source line.

libtpu writes an estimate on each instruction of the optimized HLO; an instruction in a loop counts
as often as the loop runs. Pallas kernels have no estimate, and are not in the profile. A fusion is
one instruction, and has the source line of its root.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from benchmarks.results import Table
from tpu.fit import hlo

# The last folder in a path that begins a module of this repository.
_MODULE = re.compile(r".*\b((?:model|train|data|tpu|benchmarks)/.*\.py)$")
# Files of operations that have no place of their own in the network: the caller's line is named.
_HELPERS = frozenset({
    "model/cpu.py", "model/quantized.py", "model/sharding.py", "model/taps.py",
    "model/kernels/tpu.py", "model/layers/norm.py", "model/layers/projection.py",
    "model/layers/rotary.py",
})  # fmt: skip
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_NUMBERS = re.compile(r"=(\d+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')

_PRODUCTS = {"convolution", "dot"}
_INDEXED = {"gather", "scatter"}
# Operations that move numbers and compute none.
_MOVES = {"bitcast", "broadcast", "concatenate", "constant", "convert", "copy", "fusion",
          "get-tuple-element", "iota", "pad", "parameter", "reshape", "slice", "transpose",
          "tuple"}  # fmt: skip
_STACKS = {"dynamic-slice", "dynamic-update-slice"}
# Arithmetic on the index of a loop.
_INDICES = {"add", "and", "compare", "multiply", "or", "select", "subtract"}


class Place(NamedTuple):
    """The origin of an instruction: a line (`model/layers/mlp.py:25`), and its function with the
    helper that it called (`mlp > matmul`)."""

    line: str
    function: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """An instruction's cost in a run of the program.

    Attributes:
      name: without its number. kind: `matmul`, `gather`, `stack` (slices of arrays that a loop
        reads or writes), `relayout` (moves and conversions), `reduce`, `elementwise` or
        `collective`.
      step: `forward`, `recomputed`, `backward` or `update`. place: its origin.
      times: number of its runs. in_loop: whether a loop runs it. cycles: of all runs.
      peak: cycles of its products at the chip's peak, of all runs.
    """

    name: str
    kind: str
    step: str
    place: Place
    times: int
    in_loop: bool
    cycles: int
    peak: float


def profile(text: str, flops_per_cycle: float) -> list[Cost]:
    """The costs of an optimized module, the largest first.

    Args:
      flops_per_cycle: of the chip at its peak.

    Raises:
      ValueError: it is no HLO module.
    """
    module, places = hlo.parse(text), _places(text)
    loops = _inside_loops(module)
    costs = []
    for computation, instructions in module.computations.items():
        for instruction in instructions:
            times = module.times[computation]
            if not (cycles := times * instruction.cycles):
                continue
            inner = list(_operations(module, instruction))
            flops = sum(_flops(module, *pair) for pair in inner)
            frame = _FRAME.search(instruction.rest)
            name = _OP_NAME.search(instruction.rest)
            costs.append(Cost(
                re.sub(r"[.\d]+(clone[.\d]*)?$", "", instruction.name),
                _kind({i.kind for _, i in inner}),
                _step(name[1] if name else ""),
                places.get(int(frame[1]) if frame else 0, Place("", "")),
                times, computation in loops, cycles, times * flops / flops_per_cycle,
            ))  # fmt: skip
    return sorted(costs, key=lambda c: -c.cycles)


def grouped(costs: Iterable[Cost], key: Callable[[Cost], str]) -> dict[str, list[Cost]]:
    """{key: its costs}, the largest sum first."""
    ordered = sorted(costs, key=key)
    groups = {name: list(group) for name, group in itertools.groupby(ordered, key)}
    return dict(sorted(groups.items(), key=lambda item: -cycles(item[1])))


def cycles(costs: Iterable[Cost]) -> int:
    return sum(c.cycles for c in costs)


def table(
    title: str, costs: list[Cost], key: Callable[[Cost], str], hertz: float, rows: int
) -> Table:
    """The milliseconds of each group of costs: all, in loops, and by pass.

    Args:
      title: head of the groups' names. hertz: the chip's clock. rows: groups that are named; the
        rest are one row.
    """
    steps = ("forward", "recomputed", "backward", "update")

    def row(name: str, group: list[Cost]) -> list[str]:
        def ms(chosen: list[Cost]) -> str:
            milliseconds = 1e3 * cycles(chosen) / hertz
            return f"{milliseconds:.2f}" if milliseconds else ""

        peak = sum(c.peak for c in group) / max(cycles(group), 1)
        return [
            name, ms(group), ms([c for c in group if c.in_loop]), f"{peak:.0%}" if peak else "",
            *(ms([c for c in group if c.step == s]) for s in steps),
        ]  # fmt: skip

    groups = grouped(costs, key)
    lines = [row(name, groups[name]) for name in list(groups)[:rows]]
    if rest := [c for name in list(groups)[rows:] for c in groups[name]]:
        lines.append(row(f"{len(groups) - rows} others", rest))
    return Table((title, "ms", "in loops", "of peak", *steps), [*lines, row("all", costs)])


def _places(text: str) -> dict[int, Place]:
    """{number of a stack frame: its place}, from the tables at the head of a module."""
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    rows: dict[int, str] = {}
    for line in text.splitlines():
        if line in tables:
            rows = tables[line]
        elif match := re.match(r"(\d+) (.*)", line):
            rows[int(match[1])] = match[2]
        elif line.startswith(("%", "ENTRY")):
            break
    files, functions, locations, frames = tables.values()

    def chain(number):
        """(file, line, function) of a frame and those that called it, within the repository."""
        while number in frames:
            location, parent = map(int, _NUMBERS.findall(frames[number]))
            file, function, line = map(int, _NUMBERS.findall(locations[location])[:3])
            if module := _MODULE.match(files[file].strip('"')):
                yield module[1], line, functions[function].strip('"').split(".")[-1]
            number = parent - 1  # numbers are printed one too high; 0 is none

    def place(number):
        helper = ""
        for file, line, function in chain(number):
            if file not in _HELPERS:
                return Place(f"{file}:{line}", f"{function} > {helper}" if helper else function)
            helper = helper or function
        return Place("", helper)

    return {number: place(number) for number in frames}


def _inside_loops(module: hlo.Module) -> set[str]:
    """Names of the computations that loops run, and of those that they call."""
    inside: set[str] = set()

    def add(name):
        if name not in inside:
            inside.add(name)
            for instruction in module.computations[name]:
                for called in instruction.called:
                    add(called)

    for instructions in module.computations.values():
        for instruction in instructions:
            if instruction.kind == "while":
                for called in instruction.called:
                    add(called)
    return inside


def _operations(module: hlo.Module, instruction: hlo.Instruction, scope: str = ""):
    """(its computation, instruction) of an instruction, or of all within it if it is a fusion."""
    if instruction.kind not in ("fusion", "async-start", "call"):
        yield scope, instruction
        return
    for name in instruction.called:
        for inner in module.computations[name]:
            yield from _operations(module, inner, name)


def _kind(kinds: set[str]) -> str:
    bases = {kind.removesuffix("-start").removesuffix("-done") for kind in kinds}
    if bases & _PRODUCTS:
        return "matmul"
    if bases & _INDEXED:
        return "gather"
    if bases & set(hlo.COLLECTIVES):
        return "collective"
    if bases & _STACKS and bases <= _MOVES | _STACKS | _INDICES:
        return "stack"
    if bases <= _MOVES:
        return "relayout"
    return "reduce" if bases & {"reduce", "reduce-window"} else "elementwise"


def _step(op_name: str) -> str:
    if "rematted_computation" in op_name:
        return "recomputed"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "update"


def _flops(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> float:
    """FLOPs of a product of two matrices within a fusion. Of M×K by K×N they are 2·MKN, the root
    of the product of the three sizes, twice; a batch axis would be counted once too little."""
    if instruction.kind not in _PRODUCTS or not computation:
        return 0.0
    shapes: Mapping[str, tuple[hlo.Shape, ...]] = {
        i.name: i.shapes for i in module.computations[computation]
    }
    operands = [shapes[name][0].dims for name in instruction.operands[:2] if name in shapes]
    if len(operands) < 2:
        return 0.0
    sizes = [math.prod(dims) for dims in (*operands, instruction.shapes[0].dims)]
    return 2.0 * math.sqrt(math.prod(sizes))
