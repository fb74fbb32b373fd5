"""An objective as data: what it trains, from what it starts, and the functions that train it.

Each objective is one file of this folder, and one row of train/objectives/registry.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import make_loader
from data.pipeline import Data
from data.text.base import Tokenizer
from model import sharding
from model.config import TransformerConfig
from train.evals.base import Evaluation
from train.objectives.reporting import Report


@dataclasses.dataclass
class Context:
    """The inputs from which an objective builds its stage.

    Attributes:
      config: the run's RunConfig (train/config/run.py, which imports this package).
      models: the architecture of each role that the objective uses.
      data: rows of both splits. pretrain_data: rows of the text that is mixed in, or None.
      evals: {name: held-out rows} of the evaluations that have a source.
      normalizer: (gain, bias) of scores that the reward model brings, or None.
      keeps: functions that write newly computed rows to the workdir, once the run is accepted.
    """

    config: Any
    models: dict[str, TransformerConfig]
    tokenizer: Tokenizer
    data: Data
    mesh: jax.sharding.Mesh
    pretrain_data: Data | None = None
    evals: Mapping[str, Data] = dataclasses.field(default_factory=dict)
    normalizer: tuple[float, float] | None = None
    keeps: tuple[Callable[[], None], ...] = ()


class Stage(NamedTuple):
    """The functions that train a run; train/step.py and train/loop.py call them.

    Attributes:
      weights: batch -> {term: weight}, from masks alone.
      loss: (trainable, frozen, batch) -> ({term: sum}, {metric: (sum, weight)}); a metric named
        `…_max` is (the largest, 1).
      source: has `init() -> s`, `next(state, frozen, s, step) -> (batch, s, metrics)`, and
        `shares(s) -> {metric: share}` of a mixture's sources so far.
      evaluation: data -> its own evaluation on the held-out rows of that data.
      first_pass: (trainable, frozen, batch) -> {name: (sum, weight)}, or None. `loss` finds their
        means over the whole optimizer step in its batch, under these names and without gradient.
      veto: metrics -> bool array, true to leave an update out, and those after it until the
        source says otherwise (train/step.py).
    """

    weights: Callable
    loss: Callable
    source: Any
    evaluation: Callable[[Data], Evaluation]
    veto: Callable = lambda metrics: jnp.bool_(False)
    first_pass: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """A row of train/objectives/registry.py; every function has a default that does nothing.

    Attributes:
      schema: of its data (data/schemas).
      trainable: roles that it trains. frozen: roles that it reads. optional: roles that it reads
        if `init_from` names them.
      build: Context -> Stage.
      origins: {trained role: roles of `init_from` that it can start from, the preferred one
        first}. A role that starts from another kind of network takes its backbone.
      report: what the report of a chain says of it.
      required: roles of `init_from` without which it cannot start.
      settings: the frozen dataclass of its own settings, the group `config.<stage>`; or None.
      configure: (objective, config) -> the objective with what depends on settings.
      check: config -> None; raises ConfigError.
      divisible: config -> {setting: number that the mesh's batch shards have to divide}.
      prepare: (ctx, frozen, origins, workdir) -> (ctx, frozen), called once before `build`; it
        computes with frozen models what is kept in their place.
      prepared: {name: array or shape} of a batch -> {name: shape} of what `prepare` adds to it.
      group_size: config -> answers to each prompt of a rollout.
      forwards: {role: forward passes over as many tokens as a batch has}, of an optimizer step,
        besides the one with a gradient.
    """

    schema: str
    trainable: tuple[str, ...]
    build: Callable[[Context], Stage]
    origins: Mapping[str, tuple[str, ...]]
    report: Report
    frozen: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    settings: type | None = None
    configure: Callable[[Objective, Any], Objective] = lambda objective, config: objective
    check: Callable[[Any], None] = lambda config: None
    divisible: Callable[[Any], Mapping[str, int]] = lambda config: {}
    prepare: Callable | None = None
    prepared: Callable[[Mapping], Mapping] = lambda batch: {}
    group_size: Callable[[Any], int] = lambda config: 1
    forwards: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rollouts(self) -> bool:
        """Whether it learns from answers that it samples: its data are prompts."""
        return self.schema == "prompt"

    @property
    def answers(self) -> bool:
        """Whether it trains a policy to answer questions; text alone does not."""
        return "policy" in self.trainable and self.schema != "text"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that `init_from` may name."""
        origins = (role for roles in self.origins.values() for role in roles)
        return tuple(dict.fromkeys((*origins, *self.frozen, *self.optional)))


class LoaderSource:
    """Batches of a data set; the step is their whole state."""

    def __init__(self, ctx: Context):
        config = ctx.config
        local = sharding.local_rows(ctx.mesh, config.data.batch_size)
        self._loader = make_loader(
            config.data, ctx.data, config.data.batch_size, config.seed, local, config.steps
        )
        self._mesh, self._steps, self._batches, self._at = ctx.mesh, ctx.config.steps, None, None

    def init(self):
        return {"step": np.asarray(0, np.int32)}

    def next(self, state, frozen, s, step: int):
        del state, frozen
        if self._at != step:
            self._batches, self._at = self._loader.iterate(step, self._steps), step
        batch = sharding.put_batch(next(self._batches), self._mesh)
        self._at += 1
        return batch, {"step": np.asarray(self._at, np.int32)}, {}

    def shares(self, s):
        return self._loader.shares(int(s["step"]))
