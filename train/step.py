"""The train step of every stage, with the only `value_and_grad` in Seedpod."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.guards import numbers
from train.measures import statistics
from train.objectives.base import Stage
from train.optimizer import global_norm


class TrainState(NamedTuple):
    """The whole state of a run, all of which is in every checkpoint.

    Attributes:
      step: number of optimizer steps taken. trainable: {role: trained parameters}. opt_state: the
        optax state.
      source: the state of the batch source (train/objectives/base.py). The step reads only its
        {`stopped`}, or () if it has none (`step_view`).
      skipped: number of updates that were not applied because of a fault (train/guards/numbers.py).
      losses: the last losses that were applied, [numbers.WINDOW], NaN before the first; or () if
        spikes are not looked for.
      ema: {role: moving averages of its trained parameters} of the models whose optimizer asks for
        them (train/assembly/averages.py), which the step passes on; or () if none does.
    """

    step: Any
    trainable: Any
    opt_state: Any
    source: Any
    skipped: Any = np.int32(0)
    losses: Any = ()
    ema: Any = ()


def split_microbatches(batch: Any, count: int) -> Any:
    """Reshapes every leaf of a tree from [B, …] to [count, B / count, …].

    Microbatch i holds rows i, i + count, …, so that every row stays on its device.
    """

    def split(x):
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """total / weight, or 0 where the weight is 0."""
    return jnp.where(weight != 0, total / jnp.where(weight != 0, weight, 1), 0.0)


def first_means(
    stage: Stage,
    trainable: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    count: int,
) -> dict:
    """{name: mean over all rows of a batch} of `stage.first_pass`, accumulated over `count`
    microbatches; empty if the stage has none."""
    if not stage.first_pass:
        return {}
    first_pass = functools.partial(stage.first_pass, trainable, frozen)
    if count == 1:
        totals = first_pass(batch)
    else:
        parts = jax.lax.map(first_pass, split_microbatches(batch, count))
        totals = jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)
    return {name: ratio(total, weight) for name, (total, weight) in totals.items()}


def accumulate_gradients(
    stage: Stage,
    trainable: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batch: dict[str, jax.Array],
    count: int,
    noise: bool = False,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """Gradients of Σ Sₙ/Wₙ over all rows of a batch, accumulated over `count` microbatches.

    The weights Wₙ of the whole batch are computed first, so microbatches and devices simply add.

    Args:
      noise: whether to add the gradient noise of several microbatches to the metrics.

    Returns:
      (loss, gradients, {metric: mean over the batch}).
    """
    weights = stage.weights(batch)
    means = first_means(stage, trainable, frozen, batch, count)

    def loss(trainable, micro):
        sums, metrics = stage.loss(trainable, frozen, micro | means)
        if sums.keys() != weights.keys():
            raise ValueError(f"loss terms {sorted(sums)} and weights {sorted(weights)} differ")
        return sum(ratio(sums[n], weights[n]) for n in sums), metrics

    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    measured = {}
    if count == 1:
        (total, metrics), grads = value_and_grad(trainable, batch)
    else:
        micros = split_microbatches(batch, count)
        shapes = jax.eval_shape(value_and_grad, trainable, jax.tree.map(lambda x: x[0], micros))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def merge(path, a, b):
            largest = any(getattr(key, "key", "").endswith("_max") for key in path)
            return jnp.maximum(a, b) if largest else a + b

        def add(carry, micro):
            new = value_and_grad(trainable, micro)
            norms = statistics.by_model(statistics.squares(new[1])) if noise else None
            return jax.tree_util.tree_map_with_path(merge, carry, new), norms

        ((total, metrics), grads), norms = jax.lax.scan(add, zeros, micros)
        if noise:
            rows = jax.tree.leaves(batch)[0].shape[0]
            measured = statistics.of_microbatches(norms, grads, rows)
    return total, grads, {name: ratio(s, w) for name, (s, w) in metrics.items()} | measured


def step_view(source: Mapping[str, Any]) -> dict[str, jax.Array] | tuple[()]:
    """The part of a source's state that the step reads: {`stopped`}, or () if it has none."""
    return {"stopped": source["stopped"]} if "stopped" in source else ()


def make_train_step(
    stage: Stage,
    optimizer: optax.GradientTransformation,
    accumulate: int,
    spike: float = 0.0,
    measure: Collection[str] = (),
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The function `step(state, frozen, batch, rates) -> (state, metrics)`, to be jitted.

    An update with a fault is not applied: parameters and optimizer state are unchanged, the step
    still counts, and the metric `skipped` is 1. `fault` is an index into `numbers.CAUSES`, the same
    on all devices; if it is `numbers.RUINED`, the new weights are not finite and have replaced the
    old ones, and the caller has to go back (train/guards/going_back.py). An update that
    `stage.veto(metrics)` rejects is not applied either, nor are the following ones until the source
    resets `stopped` to 0; the metric `stopped` counts them.

    Args:
      optimizer: of train/optimizer.py; `rates` of its `rate_tables` is passed on to its `update`.
      spike: the threshold of `numbers.is_spike`, for a state with `losses`.
      measure: the statistics that are added to the metrics, of `statistics.CHOICES`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, frozen, batch, rates=None):
        loss, grads, metrics = accumulate_gradients(
            stage, state.trainable, frozen, batch, accumulate, "noise" in measure
        )
        norm = global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, rates=rates)
        trainable = optax.apply_updates(state.trainable, updates)
        losses, jump = state.losses, jnp.bool_(False)
        if spike:
            jump = numbers.is_spike(losses, loss, spike)
        rejected, source = stage.veto(metrics), state.source
        if source:
            rejected |= source["stopped"] > 0
            source = {"stopped": source["stopped"] + rejected}
            metrics |= source
        applied = jnp.isfinite(norm) & jnp.isfinite(loss) & ~jump & ~rejected
        trainable, opt_state = jax.tree.map(
            lambda new, old: jnp.where(applied, new, old),
            (trainable, opt_state),
            (state.trainable, state.opt_state),
        )
        # The new weights are looked at where they are, behind a barrier: a check of an earlier
        # value would change how XLA fuses, and so rounds, what leads to it, and a second choice
        # between the new weights and the old would hold both in memory.
        new_weights = jax.lax.optimization_barrier(trainable)
        fault = numbers.fault(loss, norm, new_weights, jump)
        if "groups" in measure or "layers" in measure:
            metrics |= statistics.of_update(grads, updates, new_weights, "layers" in measure)
        if spike:
            losses = jnp.where(applied, jnp.append(losses[1:], loss), losses)
        skipped = fault > 0
        metrics |= {"loss": loss, "grad_norm": norm, "skipped": 1.0 * skipped, "fault": fault}
        step, skipped = state.step + 1, state.skipped + skipped
        return TrainState(step, trainable, opt_state, source, skipped, losses, state.ema), metrics

    return train_step
