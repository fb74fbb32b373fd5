"""The command `python -m tpu.fit`: a recipe on one slice or several, with its price, or a run that
there is beside its prediction."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.sharding import ShardingError
from ranges import ConfigError
from tpu.fit import measured, plan, report
from tpu.fit.plan import Plan, Slices
from tpu.fit.prices import CAPACITIES, Prices
from tpu.fit.prices import read as read_prices
from train.config.budget import from_steps
from train.config.run import build
from train.runtime import strict_json
from train.terminal.text import columns, wrap


class Asked(NamedTuple):
    """The flags of the command.

    Attributes:
      topologies, slices: the slices to compile for, and how many of each.
      vocab_size: of the tokenizer, which is not read.
      steps: length of the run, a number or a budget; "" for the recipe's.
      sweep: search for the fastest settings of each slice (tpu/fit/sweep.py), except those that
        are `typed`.
      price: a price file, or "". goodput: assumed. deadline: in hours, or None.
      hlo, json: files for the optimized HLO and for the report, or "".
    """

    topologies: Sequence[str]
    slices: int
    vocab_size: int
    steps: str
    sweep: bool
    typed: Collection[str]
    price: str
    goodput: float
    deadline: float | None
    hlo: str
    json: str


def from_flags(values: Mapping[str, Any], recipe: Any) -> bool:
    """The command with its flags; returns whether the recipe fits, in time.

    Args:
      recipe: a ConfigDict; None without --config.

    Raises:
      ValueError: bad input, or a run would not start.
    """
    topologies, workdir = values["topology"], values["workdir"]
    if not workdir:
        if recipe is None or not topologies:
            raise ConfigError(
                "type --config=RECIPE and --topology=v5e-16; or --workdir=RUN for what a run took"
            )
        names = ("slices", "vocab_size", "steps", "sweep", "typed", "price", "goodput", "deadline")
        names += ("hlo", "json")
        return run(recipe, Asked(topologies, **{name: values[name] for name in names}))
    unread = [name for name in ("steps", "deadline", "sweep", "hlo") if values[name]]
    unread += ["config"] * (recipe is not None) + ["topology"] * (len(topologies) > 1)
    if unread:
        raise ConfigError(
            f"--workdir={workdir} shows a run that there is, by its own settings and slice; leave "
            f"out --{unread[0]}"
        )
    measured.run(
        workdir, values["price"], values["goodput"], topologies, values["slices"], values["json"]
    )
    return True


def run(recipe: Any, asked: Asked) -> bool:
    """Prints the report of a recipe on one slice, or a table of several; returns whether it fits
    one, gathers no weights of all layers at once there, and ends by the deadline.

    Args:
      recipe: a ConfigDict.

    Raises:
      ValueError: there is no such slice, or a run would not start.
    """
    prices, chosen = _checked(asked)
    if asked.steps:
        recipe.update(from_steps(asked.steps))
    config, several = build(recipe), len(chosen) > 1
    planned = bool(asked.steps or prices or several)
    reports, plans = dict[str, Any](), dict[str, Plan]()
    for machines in chosen:
        if several:
            print(f"compiling for {machines.name} …", flush=True)
        found = _compiled(recipe, machines, asked, several)
        if found["fits"] and planned:
            steps = plan.number_of_steps(config, found)
            made = plan.plan(found, steps, machines, asked.goodput, prices)
            plans[machines.name] = made
            found = found | {"plan": as_json(made, asked.goodput, prices)}
        reports[machines.name] = found
    best = plan.cheapest(plans.values(), asked.deadline)
    if several:
        _print_table(chosen, reports, plans, prices)
    else:
        _print_one(reports[chosen[0].name], plans.get(chosen[0].name), prices)
    if plans:
        if prices and (several or asked.deadline is not None):
            print("\n".join(["", *plan.verdict(best, asked.deadline)]))
        print()
        for sentence in plan.basis(asked.goodput, prices):
            print("\n".join(wrap(sentence, columns())))
    if asked.json:
        cheapest = {capacity: made.machines.name for capacity, made in best.items()}
        whole = {"slices": reports, "cheapest": cheapest} if several else reports[chosen[0].name]
        Path(asked.json).write_text(strict_json.dumps(whole, indent=1))
    sound = [r for r in reports.values() if r["fits"] and not r["whole_parameter_gathers"]]
    return bool(sound) and (asked.deadline is None or bool(best))


def _checked(asked: Asked) -> tuple[Prices | None, list[Slices]]:
    """The prices and the slices, checked before anything is compiled."""
    topologies = asked.topologies
    if asked.deadline is not None and not asked.price:
        raise ConfigError("--deadline chooses the cheapest slice; add its prices with --price=FILE")
    several = "--sweep" if asked.sweep else "--topology" if len(topologies) > 1 else ""
    if several and asked.hlo:
        raise ConfigError(
            f"--hlo writes one program, and {several} compiles many; give one of them"
        )
    if len({*topologies}) < len(topologies):
        raise ConfigError(f"--topology={','.join(topologies)} names a slice twice")
    chosen = [plan.slices_of(topology, asked.slices) for topology in topologies]
    prices = read_prices(asked.price) if asked.price else None
    if prices:
        for machines in chosen:
            prices.of(machines.kind)
    return prices, chosen


def _compiled(recipe: Any, machines: Slices, asked: Asked, several: bool) -> dict[str, Any]:
    """The report of a recipe on some slices. Of several, those that its mesh or its rows do not
    divide are a line of the table."""
    try:
        return report.of_slice(
            recipe, machines.topology, machines.number, asked.vocab_size, asked.sweep, asked.hlo,
            asked.typed,
        )  # fmt: skip
    except (ShardingError, ConfigError) as error:
        if not several:
            raise
        return {"fits": False, "error": str(error), "peak_bytes_per_chip": None}


def as_json(made: Plan, goodput: float, prices: Prices | None) -> dict[str, Any]:
    """A plan for the report's file."""
    priced = {"prices": prices.path, "priced_on": prices.date.isoformat()} if prices else {}
    return {
        "chips": made.machines.chips, "steps": made.steps, "tokens": made.tokens,
        "step_seconds": made.step_seconds, "goodput_assumed": goodput, "hours": made.hours,
        "dollars": dict(made.dollars), **priced,
    }  # fmt: skip


def _why(found: Mapping[str, Any]) -> str:
    """The reason why a run does not fit; "" if it does."""
    if found["fits"]:
        return ""
    if found["peak_bytes_per_chip"]:
        peak, has = (found[n] / report.GIB for n in ("peak_bytes_per_chip", "hbm_bytes_per_chip"))
        return f"does not fit: {peak:.1f} of {has:.0f} GiB"
    return found["error"]


def _print_table(
    chosen: Sequence[Slices], reports: Mapping[str, Any], plans: Mapping[str, Plan],
    prices: Prices | None,
) -> None:  # fmt: skip
    """Prints a line for each of several slices."""
    rates = [prices.of(machines.kind) for machines in chosen] if prices else []
    capacities = [capacity for capacity in CAPACITIES if any(capacity in r for r in rates)]
    print("\n" + plan.head(capacities))
    for machines in chosen:
        made, why = plans.get(machines.name), _why(reports[machines.name])
        print(plan.row(machines, made, why, capacities))


def _print_one(found: Mapping[str, Any], made: Plan | None, prices: Prices | None) -> None:
    """Prints the report of one slice, and what a run costs there."""
    if not found["fits"]:
        print(report.show_too_large(dict(found)), file=sys.stderr)
        return
    print(report.show(dict(found)))
    if made:
        print("\n" + plan.show(made, found, prices))
