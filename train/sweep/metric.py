"""The metric by which a sweep compares its trials."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.config.run import RunConfig
from train.evals.registry import EMA
from train.inspect.records.runs import METRICS
from train.objectives import registry
from train.objectives.reporting import Curve


class Metric(NamedTuple):
    """A metric of evaluations.

    Attributes:
      name: as in metrics.jsonl, without `eval/`. lower: whether lower values are better.
      unit: of its values; "" if no report names one. train: the training metric beside it, or "".
    """

    name: str
    lower: bool
    unit: str = ""
    train: str = ""

    @property
    def title(self) -> str:
        return f"eval/{self.name}"

    def worth(self, value: float) -> float:
        """A number that is lower for better values."""
        return value if self.lower else -value


def find(config: RunConfig, name: str = "", mode: str = "", trial: str = "") -> Metric:
    """The metric of a flag.

    Args:
      config: of a run. name: as `eval/loss`; "" for the first of the stage's report.
      mode: `min` or `max`; "" if it is known which is better. trial: the name of the run's, or "".

    Raises:
      ConfigError: no evaluation of the runs has it, or it is not known which values are better.
    """
    curves = _curves(config)
    known = _known(config, curves)
    bare = name.removeprefix("eval/") or next(iter(curves))
    entry, slash, rest = bare.partition("/")
    entries = [*config.evals]
    if config.optimizer.ema:
        entries += [EMA, *(f"{EMA}_{other}" for other in config.evals)]
    of_entry = bool(slash) and entry in entries
    if bare not in known and not of_entry:
        names = [*(f"eval/{n}" for n in known), *(f"eval/{n}/METRIC" for n in entries)]
        hint = did_you_mean(nearest(name, names))
        if re.match(rf"{EMA}(_|$)", entry) and not config.optimizer.ema:
            hint = "; averages of the weights need optimizer.ema=0.999"
        of_trial = f" of {trial}" if trial else ""
        raise ConfigError(
            f"--metric={name}: the evaluations{of_trial} have {', '.join(names)}{hint}"
        )
    better = mode or METRICS.get(rest if of_entry else bare, "")
    if not better:
        raise ConfigError(f"--metric={name}: add --mode=max or --mode=min: which is better?")
    curve = curves.get(rest if of_entry else bare)
    train = "" if of_entry or not curve else curve.train
    return Metric(bare, better == "min", curve.unit if curve else "", train)


def check_averages(keys: Collection[str], metric: Metric) -> None:
    """Refuses a sweep over the averages of weights alone that compares the weights.

    Raises:
      ConfigError: naming the metric to type.
    """
    if {*keys} == {"optimizer.ema"} and not re.match(rf"{EMA}(_|/)", metric.name):
        entry, slash, rest = metric.name.partition("/")
        averaged = f"{EMA}_{entry}/{rest}" if slash else f"{EMA}/{entry}"
        raise ConfigError(
            f"optimizer.ema changes the averages of the weights and not the weights, so "
            f"{metric.title} is the same in all runs; type --metric=eval/{averaged}"
        )


def _curves(config: RunConfig) -> dict[str, Curve]:
    """{metric: its curve} of the report of a stage."""
    curves = registry.STAGES[config.stage].report.curves
    return {curve.heldout: curve for curve in curves if not curve.across}


def _known(config: RunConfig, curves: Mapping[str, Curve]) -> list[str]:
    """The metrics of the stage's own evaluation that a sweep may compare."""
    objective = registry.find(config)
    names = [*curves]
    if objective.rollouts:
        names.append("win_rate")
    elif objective.schema in ("text", "chat"):
        names.append("bits_per_byte")
    return names
