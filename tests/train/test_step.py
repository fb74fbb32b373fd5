"""The train step: which updates it leaves out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.objectives.base import Stage
from train.step import TrainState, make_train_step


def test_an_early_stop_leaves_out_the_rest_of_the_rollout_and_counts_its_steps():
    """Updates of -1 a step; the KL of the second is too far, that of the third is not."""
    stage = Stage(
        weights=lambda batch: {"all": jnp.float32(1)},
        loss=lambda trainable, frozen, batch: (
            {"all": trainable["policy"]["w"]}, {"approx_kl": (batch["kl"], jnp.float32(1))}
        ),
        source=None, evaluation=None, veto=lambda metrics: metrics["approx_kl"] > 1,
    )  # fmt: skip

    class Descent(NamedTuple):
        init: Any = None

        def update(self, grads, state, params):
            return jax.tree.map(jnp.negative, grads), state + 1

    step = make_train_step(stage, Descent(), 1)
    state = TrainState(jnp.int32(0), {"policy": {"w": jnp.float32(0)}}, jnp.int32(0), ())
    stopped, seen = jnp.int32(0), []
    for kl in (0.5, 2.0, 0.5, np.nan):
        state, metrics = step(
            state._replace(source={"stopped": stopped}), {}, {"kl": jnp.float32(kl)}
        )
        stopped = state.source["stopped"]
        seen.append((int(metrics["stopped"]), int(metrics["skipped"])))
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert state.step == 4 and state.opt_state == 1 and state.trainable["policy"]["w"] == -1
    state, metrics = step(state._replace(source={"stopped": jnp.int32(0)}), {}, {"kl": 0.5})
    assert state.trainable["policy"]["w"] == -2 and metrics["stopped"] == 0
