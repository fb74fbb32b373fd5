"""The cost of fingerprints, guards and checkpoints at 10M parameters, beside the same run without.

    python -m benchmarks.reliability [--rounds=8] [--steps=1] [--write=docs/reliability.md]

Times one step with the guard of numbers and one with the check of loss and gradient alone, in turn,
in one process; then checkpoints of the whole state, with their fingerprints and without. Prints the
shares of the time of a run that saves once a minute. Steps and fingerprints are measured in seconds
of processor time, which other work on the machine disturbs less; what holds the loop, by the clock.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app, flags
from etils import epath

from benchmarks import pages, turns
from configs import base
from model import sharding
from train.assembly.run import init_state, setup
from train.checkpoints import fingerprints
from train.checkpoints.checkpointer import Checkpointer
from train.config.run import build
from train.guards import numbers
from train.step import make_train_step, step_view


def without(loss: jax.Array, norm: jax.Array, *others: Any) -> jax.Array:
    """The check that a step has without the guard: of loss and gradient alone."""
    del others
    return jnp.where(jnp.isfinite(loss) & jnp.isfinite(norm), 0, 1)


def no_fingerprints(items: Any) -> tuple[dict[str, str], list[str]]:
    del items
    return {}, []


def recipe() -> Any:
    """A recipe of 10M parameters, on the documentation of Python."""
    config = base.get_config()
    config.model.size = "10m"
    config.model.scan_unroll = 0
    config.data.source = "tfds:pydocs/text:train"
    config.data.heldout_source = "tfds:pydocs/text:test"
    config.data.batch_size, config.data.length = 32, 128
    return config


def measure(rounds: int, steps: int) -> dict[str, float]:
    """Medians, in seconds of processor time, of a step with and without the guard and of the
    fingerprints; and in seconds, of what a save holds the loop for."""
    config = build(recipe())
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
        workdir = epath.Path(folder)
        run = setup(config, workdir, mesh, None, None)
        states = {name: init_state(run) for name in ("with", "without")}
        functions = {}
        batch, source, _ = run.stage.source.next(
            states["with"], run.frozen, states["with"].source, 0
        )
        for name in states:
            change = mock.patch.object(numbers, "fault", without)
            with change if name == "without" else mock.MagicMock():
                functions[name] = jax.jit(
                    make_train_step(run.stage, run.tx, config.accumulate), donate_argnums=0
                )
                state = states[name]._replace(source=step_view(source))
                states[name], _ = functions[name](state, run.frozen, batch)

        def take(name: str, number: int) -> float:
            del number
            with turns.clock() as took:
                for _ in range(steps):
                    states[name], _ = functions[name](states[name], run.frozen, batch)
                jax.block_until_ready(states[name])
            return took.processor / steps

        seconds = turns.race({name: partial(take, name) for name in states}, rounds, warm=0)
        result = {name: statistics.median(values) for name, values in seconds.items()}
        result["ratio"] = turns.ratio(seconds, "with", "without")
        result["tokens"] = config.data.batch_size * config.data.length
        result["parameters"] = sum(x.size for x in jax.tree.leaves(states["with"].trainable))
        result |= saving(states["with"]._replace(source=source), workdir, rounds)
    return result


def saving(state: Any, workdir: epath.Path, rounds: int) -> dict[str, float]:
    """Medians of the seconds for which a save holds the loop, with fingerprints and without, and
    of computing the fingerprints."""
    checkpoints = Checkpointer(workdir, keep=1, say=lambda text: None)
    items = {**state.trainable, "opt_state": state.opt_state}
    steps = itertools.count(1)

    def save(change: Any, number: int) -> float:
        del number
        checkpoints.settle()
        with change, turns.clock() as took:
            checkpoints.save(state._replace(step=jnp.int32(next(steps))), {})
        return took.seconds

    def survey(number: int) -> float:
        del number
        with turns.clock() as took:
            fingerprints.survey(items)
        return took.processor

    without_them = mock.patch.object(fingerprints, "survey", no_fingerprints)
    sides: dict[str, Any] = {"save": partial(save, contextlib.nullcontext()),
             "save_without": partial(save, without_them), "survey": survey}  # fmt: skip
    fingerprints.survey(items)  # compiles
    figures = turns.race(sides, rounds, warm=0)
    checkpoints.close()
    return {name: statistics.median(values) for name, values in figures.items()}


def describe(values: dict[str, float]) -> str:
    """The measurement as a paragraph."""
    guard, prints = values["ratio"] - 1, values["survey"] / 60
    ms = {name: f"{values[name] * 1000:.0f} ms" for name in ("survey", "save", "save_without")}
    return (
        f"{values['parameters'] / 1e6:.1f}M parameters, a step of {values['tokens']:,} tokens and "
        f"{values['without']:.2f} s of processor time, a checkpoint a minute, on two cores, in "
        "turn in one process: the guard of numbers takes "
        f"{guard:+.2%} of a step, the fingerprints of the whole state {ms['survey']} a "
        f"checkpoint, {prints:.2%} of the minute; together {guard + prints:.2%}. A save holds the "
        f"loop for {ms['save']}, {values['save'] / 60:.2%} of the minute ({ms['save_without']} "
        "without fingerprints)."
    )


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    text = describe(measure(f.rounds, f.steps))
    print(text)
    if f.write:
        pages.write(f.write, "cost", text)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 8, "Times that each is measured.", 1)
    flags.DEFINE_integer("steps", 1, "Steps between two looks at the clock.", 1)
    flags.DEFINE_string("write", "", "Page into which the result is written.")
    app.run(main)
