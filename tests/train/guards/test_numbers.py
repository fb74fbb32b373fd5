"""The checks inside the step: which numbers keep an update from being applied."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.guards import numbers
from train.guards.numbers import CAUSES, RUINED, check_skipped
from train.objectives.base import Stage
from train.step import TrainState, make_train_step

# loss = scale · Σw + bias, so that the gradient of each of the two weights is `scale`.
STAGE = Stage(
    weights=lambda batch: {"all": jnp.float32(1)},
    loss=lambda trainable, frozen, batch: (
        {"all": batch["scale"] * jnp.sum(trainable["policy"]["w"]) + batch["bias"]}, {}
    ),
    source=None, evaluation=None,
)  # fmt: skip


class Descent(NamedTuple):
    """w - rate · gradient; the state is a sum of squared gradients."""

    rate: float
    init: Any = None

    def update(self, grads, state, params):
        g = grads["policy"]["w"]
        return {"policy": {"w": -self.rate * g}}, state + 1e10 * g[0] * g[0]


def take(rate, w, scale, bias=0.0):
    step = jax.jit(make_train_step(STAGE, Descent(rate), 1))
    state = TrainState(jnp.int32(0), {"policy": {"w": jnp.float32([w, 0])}}, jnp.float32(0), ())
    return step(state, {}, {"scale": jnp.float32(scale), "bias": jnp.float32(bias)})


@pytest.mark.parametrize(
    ("cause", "numbers"),
    [
        ("loss", (1.0, 1.0, 1.0, np.nan)),
        ("loss", (1.0, 1.0, 1.0, -np.inf)),
        ("gradient", (1.0, 0.0, 1e30)),  # its square overflows
    ],
)
def test_one_number_that_is_not_finite_keeps_everything_as_it_was(cause, numbers):
    state, metrics = take(*numbers)
    assert CAUSES[int(metrics["fault"])] == f"{cause} not finite"
    assert metrics["skipped"] == 1 and state.skipped == 1 and state.step == 1
    assert state.trainable["policy"]["w"][0] == np.float32(numbers[1]) and state.opt_state == 0


@pytest.mark.parametrize("numbers", [(1e38, 0.0, 1e10), (1e38, -3e38, 1.0)])
def test_weights_that_are_not_finite_are_named(numbers):
    """As the update is infinite, or too large for the weight."""
    state, metrics = take(*numbers)
    assert metrics["fault"] == RUINED and metrics["skipped"] == state.skipped == 1


def test_a_healthy_step_has_no_fault():
    state, metrics = take(0.5, 1.0, 2.0)
    assert metrics["fault"] == metrics["skipped"] == state.skipped == 0
    assert state.trainable["policy"]["w"][0] == 0 and state.opt_state == 4e10


def test_a_spike_is_far_above_the_last_applied_losses(monkeypatch):
    monkeypatch.setattr(numbers, "WINDOW", 4)
    step = jax.jit(make_train_step(STAGE, optax.sgd(0.0), 1, spike=3.0))
    trainable = {"policy": {"w": jnp.float32(0)}}
    state = TrainState(
        jnp.int32(0), trainable, optax.sgd(0.0).init(trainable), (),
        losses=jnp.full(4, jnp.nan),
    )  # fmt: skip
    seen = []
    for loss in (9, 1, 2, 3, 4, 5, 100, np.nan, 8.5, 9):
        batch = {"scale": jnp.float32(1), "bias": jnp.float32(loss)}
        state, metrics = step(state, {}, batch)
        seen.append(CAUSES[int(metrics["fault"])])
    # 9, 1, 2, 3: the window is full from here on; 2 to 5 have a median of 3.5 and a deviation of 1.
    assert seen == [""] * 6 + ["loss spike", "loss not finite", "loss spike", "loss spike"]
    assert state.losses.tolist() == [2, 3, 4, 5] and state.skipped == 4
    assert not numbers.is_spike(jnp.full(4, 2.0), 2.05, 3.0)  # equal losses have a spread too
    assert numbers.is_spike(jnp.full(4, 2.0), 2.1, 3.0)


def test_a_large_share_of_updates_that_were_not_applied_is_no_success():
    check_skipped(10, 100)
    with pytest.raises(FloatingPointError, match="11 of 100 updates were not applied"):
        check_skipped(11, 100)
