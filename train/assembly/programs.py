"""The jitted train step of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from model import sharding
from tpu.chips import compiler_options
from train.assembly import averages, ramps
from train.assembly.run import Run
from train.step import TrainState, make_train_step

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def jitted(run: Run) -> Step:
    """The train step (state, frozen, batch, rates) of a run, jitted; the state is donated. With
    ramps there is a program for each shape of batches."""
    config = run.ctx.config
    options = compiler_options(jax.devices()[0], run.ctx.models.values())

    @functools.cache
    def step(accumulate: int) -> Step:
        function = make_train_step(
            run.stage, run.tx, accumulate, config.guard.spike, config.statistics
        )
        return jax.jit(function, donate_argnums=0, compiler_options=options)

    levels = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
    if len(levels) == 1:
        return step(config.accumulate)
    counts = {level.shape: level.config.accumulate for level in levels}
    return lambda state, frozen, batch, rates: step(counts[ramps.shape(batch)])(
        state, frozen, batch, rates
    )


def jit_step(run: Run, jit: Callable[[Run], Step] = jitted) -> Step:
    """The train step (state, frozen, batch) of a run, with its learning rates, and the averages of
    its weights."""
    return averages.with_averages(jit(run), run)
