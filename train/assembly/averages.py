"""Exponential moving averages of weights (Polyak & Juditsky 1992), a program beside the step.

The step is the same program with and without them, so that a run takes the same steps, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from train.step import TrainState

if TYPE_CHECKING:
    from train.assembly.run import Run

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict]]


def update(
    averages: Mapping[str, Any], params: Mapping[str, Any], rates: Mapping[str, Any], step: Any
) -> dict[str, Any]:
    """a + r·(w − a), with r at least 9 / (step + 9): early on the averages span about the last
    tenth of the steps, and forget the initial weights.

    Args:
      averages: {role: a}. params: {role: w} after `step` steps, at least 1.
      rates: {role: 1 − decay}, float32.
    """
    least = 9 / (step + 9)
    return {
        role: optax.incremental_update(params[role], old, jnp.maximum(rates[role], least))
        for role, old in averages.items()
    }


def with_averages(step: Callable[..., tuple[TrainState, dict]], run: Run) -> Step:
    """The step of a run, with its learning rates, and the averages of its weights if it has any.

    Args:
      step: (state, frozen, batch, rates) -> (state, metrics), jitted.
    """
    like, rates = run.abstract.ema, run.ema_rates
    if not like:
        return lambda state, frozen, batch: step(state, frozen, batch, run.rates)
    average = jax.jit(update, donate_argnums=0, out_shardings=_shardings(like))

    def both(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict]:
        new, metrics = step(state._replace(ema=()), frozen, batch, run.rates)
        params = {role: new.trainable[role] for role in like}
        return new._replace(ema=average(state.ema, params, rates, new.step)), metrics

    return both


def begun(state: TrainState, like: Any) -> TrainState:
    """The state with averages: those that it has; others begin as copies of the weights.

    Args:
      like: {role: shapes and shardings} of the averages that it has to have, or ().
    """
    ema = dict(state.ema)
    for role, tree in dict(like).items():
        if role not in ema:  # copied, because the step donates both
            copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=_shardings(tree))
            ema[role] = copy(state.trainable[role])
    return state._replace(ema=ema or ())


def _shardings(like: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, like)
