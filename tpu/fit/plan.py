"""The price of a run before it is launched: hours, dollars and tokens on a slice, and the cheapest
slice on which it ends in time.

    hours = steps · seconds of a step / goodput        dollars = hours · chips · dollars a chip-hour
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ranges import ConfigError
from tpu import slices
from tpu.fit import levels
from tpu.fit.prices import CAPACITIES, Prices
from train.assembly import budget as budgets
from train.assembly import ramps
from train.config import budget as texts
from train.config.run import RunConfig
from train.objectives import registry

# Published step times as multiples of the predicted ones: the least and the largest (docs/fit.md).
PUBLISHED = (0.81, 1.15)
_LEVEL = operator.itemgetter("first_step", "rows", "length", "predicted_step_seconds")


class Slices(NamedTuple):
    """The slices of a run, all of one kind.

    Attributes:
      topology: as v5p-128 or v5p:4x4x4. number: of slices. kind: of their chips, as v5p.
      chips: in all slices.
    """

    topology: str
    number: int
    kind: str
    chips: int

    @property
    def name(self) -> str:
        return f"{self.number} × {self.topology}" if self.number > 1 else self.topology


def slices_of(topology: str, count: int) -> Slices:
    """The slices of a --topology.

    Raises:
      ValueError: it names none.
    """
    kind, _, size = re.sub("^v5litepod", "v5e", topology).partition("-")
    if size:
        chips = slices.parse(topology, "--topology").chips
    else:
        kind, _, grid = kind.partition(":")
        if not re.fullmatch(r"\d+(x\d+)*", grid):
            raise ValueError(f"--topology={topology}: write v5e-16, v5p-128, v6e-256 or v5e:4x4")
        chips = math.prod(map(int, grid.split("x")))
    return Slices(topology, count, kind, chips * count)


class Plan(NamedTuple):
    """A run on some slices.

    Attributes:
      tokens: padding included. step_seconds: predicted, of a ramp the mean of all steps.
      dollars: {capacity: dollars}.
    """

    machines: Slices
    steps: int
    tokens: int
    step_seconds: float
    hours: float
    dollars: Mapping[str, float]


def number_of_steps(config: RunConfig, report: Mapping[str, Any]) -> int:
    """The number of steps of a run, also of one whose budget says it.

    Args:
      report: of a slice on which it fits (tpu/fit/report.py).

    Raises:
      ConfigError: the stage takes no budget, or the budget is less than a step or than a ramp.
    """
    if not config.budget:
        return config.steps
    budgets.check(config, registry.find(config))
    budget = texts.parse(config.budget)
    name, times = {
        "x": ("tokens_per_step", report["parameters"]),
        "tokens": ("tokens_per_step", 1),
        "flops": ("flops_per_step_per_chip", 1 / report["devices"]),
        "h": ("predicted_step_seconds", 3600),
    }[budget.unit]
    steps = round(ramps.steps_for(budget.amount * times, levels.costs(report, name)))
    if not steps:
        raise ConfigError(f"budget={config.budget} is less than a step; give a larger one")
    ramps.check_steps(dataclasses.replace(config, steps=steps))
    return steps


def plan(
    report: Mapping[str, Any],
    steps: int,
    machines: Slices,
    goodput: float,
    prices: Prices | None,
) -> Plan:
    """The plan of a run that fits.

    Args:
      report: of the slices (tpu/fit/report.py). goodput: share of the time that goes into steps.
    """
    seconds = levels.spent(report, "predicted_step_seconds", range(steps))
    tokens = levels.spent(report, "tokens_per_step", range(steps))
    hours = seconds / goodput / 3600
    rates = prices.of(machines.kind) if prices else {}
    dollars = {capacity: hours * machines.chips * rate for capacity, rate in rates.items()}
    return Plan(machines, steps, int(tokens), seconds / steps, hours, dollars)


def cheapest(plans: Iterable[Plan], deadline: float | None) -> dict[str, Plan]:
    """{capacity: the cheapest plan that ends within `deadline` hours}, where there is one."""
    in_time = [p for p in plans if deadline is None or p.hours <= deadline]
    return {
        capacity: min(priced, key=lambda p: p.dollars[capacity])
        for capacity in CAPACITIES
        if (priced := [p for p in in_time if capacity in p.dollars])
    }


def show(made: Plan, report: Mapping[str, Any], prices: Prices | None) -> str:
    """The plan of a run as text for the terminal."""
    ramp, mfu = report.get("levels", []), levels.mfu(report, range(made.steps))
    seconds = "seconds of a step, predicted" + ", mean" * bool(ramp)
    lines = [
        f"a run of {made.steps:,} steps on {made.machines.name} ({made.machines.chips:,} chips)",
        f"  {'tokens':32}{count(made.tokens):>12}",
        f"  {seconds:32}{made.step_seconds:>12.3g}   MFU {mfu:.1%}",
        *(
            f"    {f'from step {n:,}':30}{seconds:>12.3g}   {rows:,} rows of {length:,} tokens"
            for n, rows, length, seconds in map(_LEVEL, ramp)
        ),
        f"  {'hours':32}{hours(made.hours):>12}",
    ]
    rates = prices.of(made.machines.kind) if prices else {}
    for capacity, cost in made.dollars.items():
        rate = f"${rates[capacity]:g} a chip-hour"
        lines.append(f"  {f'dollars, {words(capacity)}':32}{dollars(cost):>12}   {rate}")
    return "\n".join(lines)


def basis(goodput: float, prices: Prices | None) -> list[str]:
    """Sentences on what the hours and dollars rest on."""
    low, high = PUBLISHED
    sentences = [
        "Seconds of a step are the TPU compiler's prediction, not a measurement: published step "
        f"times are {low:g} to {high:g} times such predictions (docs/fit.md).",
        f"A goodput of {goodput:.0%} is assumed (--goodput): compilation, evaluations, checkpoints "
        "and restarts are in the rest of the hours. Waiting for machines is not.",
    ]
    return [*sentences, f"Prices: {prices.described()}."] if prices else sentences


def head(capacities: Sequence[str]) -> str:
    """The first line of the table of several slices."""
    costs = "".join(f"{words(capacity):>12}" for capacity in capacities)
    return f"{'slice':16}{'s/step':>8}{'hours':>9}{costs}"


def row(machines: Slices, made: Plan | None, why: str, capacities: Sequence[str]) -> str:
    """A line of the table of several slices.

    Args:
      made: None if the run does not fit. why: the reason.
    """
    if made is None:
        return f"{machines.name:16}  {why}"
    line = f"{machines.name:16}{made.step_seconds:>8.3g}{hours(made.hours):>9}"
    costs = (made.dollars.get(capacity) for capacity in capacities)
    return line + "".join(f"{'–' if x is None else dollars(x):>12}" for x in costs)


def verdict(best: Mapping[str, Plan], deadline: float | None) -> list[str]:
    """Lines that name the cheapest slice for each capacity."""
    within = "" if deadline is None else f" within {deadline:g} hours"
    lines = [
        f"cheapest {words(capacity)}{within}: {made.machines.name}, {hours(made.hours)} hours, "
        f"{dollars(made.dollars[capacity])}"
        for capacity, made in best.items()
    ]
    return lines or [f"no slice here ends the run{within}"]


def words(capacity: str) -> str:
    """A capacity in words: `on demand`."""
    return capacity.replace("_", " ")


def hours(value: float) -> str:
    """Hours with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def dollars(value: float) -> str:
    """Dollars; below 100 with cents, below a cent with two digits."""
    if value >= 100:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 0.01 else f"${value:.2g}"


def count(value: float) -> str:
    """A large number in words: `52.4 billion`."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"
