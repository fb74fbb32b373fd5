"""The number of steps that a budget (train/config/budget.py) is enough for."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from data.read import json_files
from data.rows import take_rows
from model import sharding
from ranges import ConfigError
from train.assembly import ramps
from train.assembly.partition import Partition
from train.checkpoints import networks
from train.config.budget import parse
from train.config.run import RunConfig
from train.objectives.base import Context, Objective
from train.runtime import flops
from train.step import TrainState, step_view

if TYPE_CHECKING:
    from train.assembly.run import Run

# Steps that are timed for a budget of hours, after those in which XLA compiles and caches fill.
UNTIMED, TIMED = 2, 5
# Above this many steps a budget has too many digits to be meant.
_MOST = 10**9


def tokens_per_step(ctx: Context, objective: Objective) -> int:
    """The number of tokens of a batch, padding included."""
    config = ctx.config
    if objective.rollouts:
        return config.data.batch_size * (config.rl.prompt_length + config.rl.response_length)
    return config.data.batch_size * take_rows(ctx.data.train, np.arange(1))["tokens"].size


def parameters(weights: Any) -> int:
    """The number of parameters of a model, embeddings included, as Hoffmann et al. 2022
    (arXiv:2203.15556) count them."""
    return sum(x.size for x in jax.tree.leaves(weights))


def recorded_steps(config: RunConfig, workdir: epath.PathLike) -> int | None:
    """The number of steps that a workdir recorded for the same budget, with which its run is
    resumed; None without one."""
    path = epath.Path(workdir) / "config.json"
    if not config.budget or not path.exists():
        return None
    saved = json_files.read(path, dict[str, Any])
    steps = saved.get("steps")
    return steps if saved.get("budget") == config.budget and type(steps) is int else None


def to_be_timed(config: RunConfig, workdir: epath.PathLike) -> bool:
    """Whether `measured` has to say the number of steps."""
    hours = bool(config.budget) and parse(config.budget).unit == "h"
    return hours and recorded_steps(config, workdir) is None


def check(config: RunConfig, objective: Objective) -> None:
    """Refuses the budget of a stage that samples."""
    if config.budget and objective.rollouts:
        raise ConfigError(
            f"budget={config.budget} and stage={config.stage}, which samples: the tokens and the "
            "time of its steps change as it learns. Give a number: --config.steps=N"
        )


def resolve(
    ctx: Context, objective: Objective, whole: Mapping[str, Any], parts: Mapping[str, Partition]
) -> RunConfig:
    """A run's settings with the number of steps of its budget; of hours, those that are timed.

    Args:
      whole: {trained role: shapes of all its parameters}. parts: {role: its partition}.

    Raises:
      ConfigError: the budget is less than a step.
    """
    config, budget = ctx.config, parse(ctx.config.budget)
    if budget.unit == "h":
        return dataclasses.replace(config, steps=UNTIMED + TIMED)
    costs = list[tuple[range, float]]()
    for level in ramps.levels(config, sharding.batch_shards(ctx.mesh)):
        tokens = tokens_per_step(dataclasses.replace(ctx, config=level.config), objective)
        in_flops = flops.of_step(level.config, ctx.models, whole, parts, tokens)
        costs.append((level.steps, in_flops if budget.unit == "flops" else tokens))
    wanted = budget.amount
    if budget.unit == "x":
        wanted *= sum(parameters(whole[role]) for role in objective.trainable)
    _, first = costs[0]
    text = f"{first:.3g} FLOPs" if budget.unit == "flops" else f"{first:,} tokens"
    return _with_steps(config, ramps.steps_for(wanted, costs), text)


def _with_steps(config: RunConfig, steps: float, cost: str) -> RunConfig:
    """`config` with the nearest number of steps.

    Args:
      cost: of the first step.

    Raises:
      ConfigError: there is none, or an absurd one, or a ramp ends after them.
    """
    if not 0.5 <= steps < _MOST:
        raise ConfigError(
            f"budget={config.budget} is {steps:.2g} steps of {cost}; give a "
            f"{'larger' if steps < 1 else 'smaller'} one"
        )
    config = dataclasses.replace(config, steps=round(steps))
    ramps.check_steps(config)
    return config


def measured(
    run: Run, state: TrainState, step: Callable[..., tuple[TrainState, dict]]
) -> RunConfig:
    """The settings of a run with the number of steps that take the hours of its budget, by the
    median time of its first steps, or of the first ones of each level of its ramps, which are taken
    and thrown away; the same on all processes.

    Args:
      state: at step 0; it is donated. step: (state, frozen, batch) -> (state, metrics).
    """
    config, s, costs = run.ctx.config, state.source, list[tuple[range, float]]()
    *short, last = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
    for level in (*short, last):
        seconds = []
        for number in range(UNTIMED + TIMED):
            begun = time.perf_counter()
            if short:  # a level may have fewer steps
                step_number = level.steps.start + number
                if level is not last:
                    step_number = min(step_number, level.steps.stop - 1)
                s = {**s, "step": np.asarray(step_number, np.int32)}
            batch, s, _ = run.stage.source.next(state, run.frozen, s, number)
            state, metrics = step(state._replace(source=step_view(s)), run.frozen, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - begun)
        median = np.array(statistics.median(seconds[UNTIMED:]))
        costs.append((level.steps, float(multihost_utils.broadcast_one_to_all(median))))
    steps = ramps.steps_for(parse(config.budget).amount * 3600, costs)
    return _with_steps(config, steps, f"{costs[0][1]:.3g} s")


def line(run: Run) -> str:
    """The number of steps of a run's budget, and how it follows, for the terminal."""
    config, budget = run.ctx.config, parse(run.ctx.config.budget)
    text = f"{config.budget}: {config.steps:,} steps"
    if budget.unit == "h":
        return f"{text} by the time of {TIMED}; evaluations and checkpoints come on top"
    if budget.unit != "x":
        return text
    count = sum(
        parameters(networks.abstract_params(role, run.ctx.models[role], run.ctx.mesh))
        for role in run.objective.trainable
    )
    levels = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
    contexts = (dataclasses.replace(run.ctx, config=level.config) for level in levels)
    tokens = sorted({tokens_per_step(ctx, run.objective) for ctx in contexts})
    a_step = " to ".join(f"{count:,}" for count in dict.fromkeys((tokens[0], tokens[-1])))
    return f"{text}, {budget.amount:g} × {count:,} parameters / {a_step} tokens a step"
