"""The ramps of a run (data/ramp.py) in training: the microbatches, the settings and the checks of
each level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from data.ramp import Ramp
from model import context_parallel, sharding
from ranges import ConfigError

LENGTHS = ("text", "chat")  # schemas whose rows can be cut


class Level(NamedTuple):
    """Consecutive steps with batches of one shape.

    Attributes:
      steps: the steps, counted from 0. config: the run's settings, as those of a run without ramps.
      shape: (rows, tokens in each) of a batch.
    """

    steps: range
    config: Any
    shape: tuple[int, int]

    def among(self, steps: int) -> int:
        """The number of its steps among the first `steps` of the run."""
        return len(range(self.steps.start, min(self.steps.stop, steps)))


def shape(batch: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, tokens in each) of a batch."""
    return batch["tokens"].shape[0], batch["tokens"].shape[-1]


def levels(config: Any, shards: int = 1) -> tuple[Level, ...]:
    """The levels of a run, in order; one, with the settings themselves, without a ramp.

    Args:
      config: RunConfig. shards: of a batch (`sharding.batch_shards`).
    """
    data = config.data
    if not (data.batch_ramp or data.length_ramp):
        return (Level(range(config.steps), config, (data.batch_size, data.length)),)
    out, parts = [], Ramp.of(vars(data)).levels
    ends = [*(part.start for part in parts[1:]), max(config.steps, parts[-1].start)]
    for part, end in zip(parts, ends):
        length = data.length // part.pieces
        level = dataclasses.replace(
            data, batch_size=part.rows, length=length, batch_ramp={}, length_ramp={}
        )
        settings = dataclasses.replace(
            config, data=level, accumulate=_microbatches(config, part.rows, shards)
        )
        out.append(Level(range(part.start, end), settings, (part.rows * part.pieces, length)))
    return tuple(out)


def _microbatches(config: Any, rows: int, shards: int) -> int:
    """The least number of microbatches that are no larger than at the end of a ramp, and divide.

    Raises:
      ConfigError: there is none.
    """
    largest = config.data.batch_size // config.accumulate
    for count in range(-(-rows // largest), rows // shards + 1):
        if rows % (count * shards) == 0:
            return count
    raise ConfigError(
        f"data.batch_ramp: batches of {rows} rows do not divide into microbatches of at most "
        f"{largest} rows (data.batch_size / accumulate) over the mesh's {shards} batch shards; "
        f"change it to a multiple of {shards}"
    )


def check(config: Any, objective: Any, mesh: jax.sharding.Mesh) -> None:
    """Checks the ramps of a run.

    Raises:
      ConfigError, ShardingError: the stage takes none, or a batch does not divide.
    """
    for name in ("batch_ramp", "length_ramp"):
        if getattr(config.pretrain_data, name):
            raise ConfigError(f"pretrain_data.{name}: the text of PPO takes no ramp; leave it out")
        if not getattr(config.data, name):
            continue
        if objective.rollouts:
            raise ConfigError(
                f"data.{name}: stage {config.stage} makes its batches of rollouts, and takes no "
                "ramp; leave it out"
            )
        if name == "length_ramp" and objective.schema not in LENGTHS:
            raise ConfigError(
                f"data.{name} cuts rows of text and of conversations, and stage {config.stage} "
                f"reads rows of {objective.schema}s; leave it out"
            )
    for level in levels(config, sharding.batch_shards(mesh))[:-1]:  # the last one is the run's
        context_parallel.order(level.shape[1], mesh.shape.get(context_parallel.AXIS, 1))
    if not config.budget:
        check_steps(config)


def check_steps(config: Any) -> None:
    """Refuses what would begin after the last step of a run.

    Raises:
      ConfigError: a ramp, or a cycle of the learning rate, does.
    """
    for setting, ramp in {
        "data.batch_ramp": config.data.batch_ramp,
        "data.length_ramp": config.data.length_ramp,
        "optimizer.cycles": config.optimizer.cycles,
        "value_optimizer.cycles": config.value_optimizer.cycles,
    }.items():
        late = [step for step in map(int, ramp) if step >= config.steps]
        if late:
            what = "a cycle would begin" if "cycles" in setting else "it would end"
            raise ConfigError(
                f"{setting}.{min(late)}: {what} at step {min(late)}, and the run has "
                f"steps={config.steps}; lower it, or raise --config.steps"
            )


def steps_for(amount: float, costs: Sequence[tuple[range, float]]) -> float:
    """The number of steps for which an amount is enough.

    Args:
      costs: (steps, cost of each) of every level; the last one's steps have no end.
    """
    for steps, cost in costs[:-1]:
        if amount <= len(steps) * cost:
            return steps.start + amount / cost
        amount -= len(steps) * cost
    steps, cost = costs[-1]
    return steps.start + amount / cost
