"""The jitted train step of a run."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from model import cpu, sharding
from tpu.chips import compiler_options
from train.assembly import averages, ramps
from train.assembly.run import Run
from train.guards.going_back import with_losses
from train.step import TrainState, make_train_step, step_view

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


class Jitted(Protocol):
    """A jitted train step: (state, frozen, batch, rates) -> (state, metrics)."""

    def __call__(self, *args: Any) -> tuple[TrainState, dict[str, jax.Array]]: ...

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """The step lowered for arguments of these shapes, dtypes and shardings."""


class ByShape:
    """Train steps with a program for each shape of batches.

    Args:
      steps: {`ramps.shape` of a batch: its jitted step}.
    """

    def __init__(self, steps: Mapping[tuple[int, int], Jitted]):
        self._steps = steps

    def __call__(
        self, state: TrainState, frozen: Any, batch: Any, rates: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        return self._steps[ramps.shape(batch)](state, frozen, batch, rates)

    def lower(self, state: Any, frozen: Any, batch: Any, rates: Any) -> jax.stages.Lowered:
        return self._steps[ramps.shape(batch)].lower(state, frozen, batch, rates)


def jitted(run: Run) -> Jitted:
    """The train step of a run, jitted; the state is donated. With ramps there is a program for each
    shape of batches."""
    config = run.ctx.config
    options = compiler_options(jax.devices()[0], run.ctx.models.values()) | cpu.in_place_options()

    @functools.cache
    def step(accumulate: int) -> Jitted:
        function = make_train_step(
            run.stage, run.tx, accumulate, config.guard.spike, config.statistics
        )
        return jax.jit(function, donate_argnums=0, compiler_options=options)

    levels = ramps.levels(config, sharding.batch_shards(run.ctx.mesh))
    if len(levels) == 1:
        return step(config.accumulate)
    return ByShape({level.shape: step(level.config.accumulate) for level in levels})


def jit_step(run: Run, jit: Callable[[Run], Jitted] = jitted) -> Step:
    """The train step (state, frozen, batch) of a run, with its learning rates, and the averages of
    its weights."""
    return averages.with_averages(jit(run), run)


def compile_step(run: Run, step: Jitted, s: dict[str, Any]) -> None:
    """Traces and compiles the step of a run, so that its first call need not.

    Args:
      s: the state of the source before that call.
    """
    source = run.stage.source
    state = with_losses(run, run.abstract, {})
    state = state._replace(source=step_view(state.source), ema=())
    with jax.set_mesh(run.ctx.mesh):
        step.lower(state, run.frozen, source.batch_shapes(s), run.rates).compile()


def in_thread(function: Callable[[], None]) -> concurrent.futures.Future:
    """Calls a function in a thread of its own, from now on."""
    threads = concurrent.futures.ThreadPoolExecutor(1, "compile")
    future = threads.submit(function)
    threads.shutdown(wait=False)
    return future


def jit_step_ahead(run: Run, jit: Callable[[Run], Jitted], s: dict[str, Any]) -> Step:
    """`jit_step`, whose program is compiled in a thread from now on, while the run's state is made
    and evaluated; the first call waits for it.

    Args:
      s: the state of the source before that call.
    """
    step = jit(run)
    compiled = in_thread(functools.partial(compile_step, run, step, s))

    def wait(*args: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        concurrent.futures.wait([compiled])  # an error is raised by the call, which tries again
        return step(*args)

    return averages.with_averages(wait, run)
