"""A run that there is beside its prediction: seconds of a step, goodput, hours, dollars.

The times are those of the run's own records: goodput.json, attempts.jsonl and metrics.jsonl.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
from etils import epath

from data.ramp import Ramp
from data.read import json_files
from ranges import ConfigError
from tpu import chips, slices
from tpu.fit import levels, plan, report
from tpu.fit.prices import CAPACITIES, Prices
from tpu.fit.prices import read as read_prices
from train.checkpoints import saved_models
from train.config.saved import recipe_of
from train.runtime import goodput as times
from train.runtime import strict_json
from train.runtime.records import read_metrics
from train.terminal.console import duration
from train.terminal.text import columns, wrap


class Attempt(TypedDict):
    """The entries of attempts.jsonl that are read.

    Attributes:
      step: where it began. devices: of all processes, as `16 × TPU v5 lite`.
    """

    step: Annotated[int, msgspec.Meta(ge=0)]
    devices: Annotated[str, msgspec.Meta(pattern=r"^\d+ × .")]


class Machines(NamedTuple):
    """Devices of one kind, and the seconds that a run had them.

    Attributes:
      number: of devices. device: JAX's kind. kind: that of a price file.
    """

    number: int
    device: str
    seconds: float

    @property
    def kind(self) -> str:
        return chips.GENERATIONS.get(self.device, self.device)

    @property
    def chips(self) -> int:
        return self.number // chips.DEVICES_A_CHIP.get(self.device, 1)


class Measured(NamedTuple):
    """The records of a run.

    Attributes:
      taken: the steps that this run has taken, without those of a run that it forks. planned: the
        number that it is to take. left: the rows of the other ones, as multiples of those that were
        read, and so their share of the time. seconds: {part: seconds} (train/runtime/goodput.py).
      between: seconds between attempts.
      mfu: the median, or None where the peak of the devices is unknown.
    """

    taken: range
    planned: int
    left: float
    seconds: Mapping[str, float]
    attempts: int
    between: float
    mfu: float | None
    machines: Sequence[Machines]

    @property
    def steps(self) -> int:
        return len(self.taken)

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.get(part, 0.0) for part in times.GOOD) / self.steps

    @property
    def goodput(self) -> float:
        return self.step_seconds * self.steps / sum(self.seconds.values())

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600

    def dollars(self, prices: Prices) -> dict[str, float]:
        """{capacity: dollars} of the capacities for which all machines have a price."""
        parts = [(m.seconds / 3600 * m.chips, prices.of(m.kind)) for m in self.machines]
        return {
            capacity: sum(hours * rates[capacity] for hours, rates in parts)
            for capacity in CAPACITIES
            if all(capacity in rates for _, rates in parts)
        }


def measure(workdir: str) -> Measured:
    """The records of a run.

    Raises:
      ConfigError: this is no run, or it has taken no step. DataError: a record is damaged.
    """
    folder = epath.Path(workdir)
    for name in ("config.json", "goodput.json", "attempts.jsonl"):
        if not (folder / name).exists():
            raise ConfigError(f"{workdir} has no {name}; give the workdir of a run, of one stage")
    record = json_files.read(folder / "goodput.json", times.Record)
    attempts: list[Attempt] = json_files.read_lines(folder / "attempts.jsonl", Attempt)
    records = read_metrics(folder, "train")
    first = attempts[0]["step"] if attempts else 0
    taken = range(first, record.get("steps", 0))
    seconds = record.get("seconds", {})
    if not taken or not any(seconds.get(part) for part in times.GOOD):
        raise ConfigError(f"{workdir} has taken no step yet")
    recipe = recipe_of(workdir)
    rows, end = Ramp.of(recipe.data).rows_before, recipe.steps
    left = (rows(end) - rows(taken.stop)) / (rows(taken.stop) - rows(first))
    rates = [r["mfu"] for r in records if isinstance(r.get("mfu"), float)]
    machines = _machines(attempts, records, sum(seconds.values()))
    return Measured(
        taken, end - first, left, seconds, record.get("attempts", 1),
        record.get("between_seconds", 0.0), statistics.median(rates) if rates else None, machines,
    )  # fmt: skip


def _machines(
    attempts: Sequence[Attempt], records: Sequence[Mapping[str, Any]], total: float
) -> list[Machines]:
    """The machines of the attempts. Where they differ, the time is divided at the last record
    before an attempt, so that repeated steps are of the later one."""
    spent, before = dict[str, float](), 0.0
    for number, attempt in enumerate(attempts):
        later = [a["step"] for a in attempts[number + 1 :]]
        until = max((r.get("elapsed_seconds", 0.0) for r in records
                     if not later or r["step"] <= min(later)), default=0.0)  # fmt: skip
        end = max(until, before) if later else total
        devices = attempt["devices"]
        spent[devices] = spent.get(devices, 0.0) + max(end - before, 0.0)
        before = end
    return [
        Machines(int(count), device, seconds)
        for devices, seconds in spent.items()
        for count, _, device in [devices.partition(" × ")]
    ]


def slices_of(machines: Sequence[Machines], topologies: Sequence[str], count: int) -> plan.Slices:
    """The slices of a run, of which `topologies` may name the kind.

    Raises:
      ConfigError: a prediction for them is not possible.
    """
    if len(machines) > 1:
        texts = ", ".join(f"{m.number} × {m.device}" for m in machines)
        raise ConfigError(f"it was on several kinds of machines ({texts})")
    (one,) = machines
    if one.device not in chips.GENERATIONS:
        raise ConfigError(
            f"it was on {one.number} × {one.device}, and the compiler is that of TPUs"
        )
    here = one.chips // count
    if topologies:
        named = plan.slices_of(topologies[0], count)
        if (named.kind, named.chips) != (one.kind, one.chips):
            raise ConfigError(f"it was on {one.number} × {one.device}, which is not {named.name}")
        return named
    for name in (f"{one.kind}-{here}", f"{one.kind}-{2 * here}"):  # v5p's names count cores
        try:
            if slices.parse(name).chips == here:
                return plan.slices_of(name, count)
        except ValueError:
            continue
    raise ConfigError(f"no slice has {here} chips of {one.kind}; name it with --topology")


def predict(
    workdir: str, machines: Sequence[Machines], topologies: Sequence[str], count: int
) -> dict[str, Any]:
    """The report of the run's recipe on its slices (tpu/fit/report.py).

    Raises:
      ValueError: there is none.
    """
    chosen = slices_of(machines, topologies, count)
    role = next(iter(saved_models.read_models(workdir)))
    vocab_size = saved_models.model_config(workdir, role).vocab_size
    found = report.of_slice(recipe_of(workdir), chosen.topology, chosen.number, vocab_size)
    if not found["fits"]:
        raise ConfigError(f"it does not fit {chosen.name} by the prediction: {found['error']}")
    return found


class Numbers(NamedTuple):
    """A column of the table: the steps that a run has taken, predicted or measured."""

    step_seconds: float
    mfu: float | None
    goodput: float
    hours: float
    dollars: Mapping[str, float]


def run(
    workdir: str, price: str, goodput: float, topologies: Sequence[str], count: int, json: str
) -> None:
    """Prints a run beside its prediction.

    Args:
      price: a price file, or "". goodput: assumed in the prediction.
      topologies: at most one, in place of the one that the devices tell. count: number of slices.
      json: a file for the numbers, or "".

    Raises:
      ValueError: bad input.
    """
    prices = read_prices(price) if price else None
    measured = measure(workdir)
    dollars = measured.dollars(prices) if prices else {}
    numbers = {
        "measured": Numbers(
            measured.step_seconds, measured.mfu, measured.goodput, measured.hours, dollars
        )
    }
    basis = [f"Prices: {prices.described()}."] if prices else []
    try:
        found = predict(workdir, measured.machines, topologies, count)
    except ValueError as error:
        basis.insert(0, f"No prediction: {error}.")
    else:
        numbers["predicted"] = _predicted(found, measured, goodput, prices)
        basis = plan.basis(goodput, prices)
    print(show(workdir, measured, numbers))
    print()
    for sentence in [*_rest(measured), *_remaining(measured, dollars), *basis]:
        print("\n".join(wrap(sentence, columns())))
    if json:
        sides = {side: one._asdict() for side, one in numbers.items()}
        Path(json).write_text(strict_json.dumps({"steps": measured.steps} | sides, indent=1))


def _predicted(
    found: Mapping[str, Any], measured: Measured, goodput: float, prices: Prices | None
) -> Numbers:
    (machines,) = measured.machines
    seconds = levels.spent(found, "predicted_step_seconds", measured.taken)
    hours = seconds / goodput / 3600
    rates = prices.of(machines.kind) if prices else {}
    dollars = {capacity: hours * machines.chips * rate for capacity, rate in rates.items()}
    mfu = levels.mfu(found, measured.taken)
    return Numbers(seconds / measured.steps, mfu, goodput, hours, dollars)


def show(workdir: str, measured: Measured, numbers: Mapping[str, Numbers]) -> str:
    """The table of a run.

    Args:
      numbers: {`measured`, and `predicted` where that is possible: its column}.
    """
    devices = ", ".join(f"{m.number} × {m.device}" for m in measured.machines)
    attempts = f", {measured.attempts} attempts" if measured.attempts > 1 else ""
    lines = [
        f"{workdir}: {measured.steps:,} of {measured.planned:,} steps, {devices}{attempts}",
        "",
        f"{'':22}{'predicted':>12}{'measured':>12}",
    ]

    def add(name: str, predicted: Any, actual: Any, text: Callable[[Any], str]) -> None:
        cells = ["–" if value is None else text(value) for value in (predicted, actual)]
        change = f"{actual / predicted - 1:>+9.0%}" if predicted and actual else ""
        lines.append(f"{name:22}{cells[0]:>12}{cells[1]:>12}{change}")

    known, actual = numbers.get("predicted"), numbers["measured"]
    add("seconds of a step", known and known.step_seconds, actual.step_seconds, "{:.3g}".format)
    if known or actual.mfu:
        add("MFU", known and known.mfu, actual.mfu, "{:.1%}".format)
    add("goodput", known and known.goodput, actual.goodput, "{:.1%}".format)
    add("hours", known and known.hours, actual.hours, plan.hours)
    for capacity, cost in actual.dollars.items():
        before = known and known.dollars.get(capacity)
        add(f"dollars, {plan.words(capacity)}", before, cost, plan.dollars)
    return "\n".join(lines)


def _rest(measured: Measured) -> list[str]:
    """Sentences on the time that did not go into steps."""
    total = sum(measured.seconds.values())
    shares = sorted(
        ((seconds / total, part) for part, seconds in measured.seconds.items()
         if part not in times.GOOD),
        reverse=True,
    )  # fmt: skip
    texts = [f"{part.replace('_', ' ')} {share:.1%}" for share, part in shares if share >= 0.0005]
    sentences = [f"Not in steps: {', '.join(texts)}."] if texts else []
    if measured.between:
        sentences.append(f"Not counted: {duration(measured.between)} between attempts.")
    return sentences


def _remaining(measured: Measured, dollars: Mapping[str, float]) -> list[str]:
    """A sentence on the steps that are left."""
    steps, share = measured.planned - measured.steps, measured.left
    if steps <= 0:
        return []
    costs = [f"{plan.dollars(cost * share)} {plan.words(c)}" for c, cost in dollars.items()]
    text = f"The other {steps:,} steps take {plan.hours(measured.hours * share)} hours at this pace"
    return [f"{text} ({', '.join(costs)})." if costs else f"{text}."]
