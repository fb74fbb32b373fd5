"""An objective as data: the roles it trains, their origins, and the functions that train them.

Each objective is one file of this folder and one row of train/objectives/registry.py.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import make_loader
from data.pipeline import Data
from data.text.base import Tokenizer
from model import sharding
from model.config import TransformerConfig
from train.evals.base import Evaluation
from train.guards.origins import BatchOrigin
from train.objectives.reporting import Report
from train.terminal.console import console


@dataclasses.dataclass
class Context:
    """The inputs from which an objective builds its stage.

    Attributes:
      config: the run's RunConfig (train/config/run.py, which imports this package).
      models: the architecture of each role that the objective uses.
      data: rows of both splits. pretrain_data: rows of the text that is mixed in, or None.
      evals: {name: data} of the evaluations that do not read `data`: a Data with held-out rows, or
        a type's own (train/evals/registry.py).
      normalizer: (gain, bias) that normalize the reward model's scores, saved with it, or None.
      save_rows: functions that write newly computed rows to the workdir, called once the run has
        passed all checks.
    """

    config: Any
    models: dict[str, TransformerConfig]
    tokenizer: Tokenizer
    data: Data
    mesh: jax.sharding.Mesh
    pretrain_data: Data | None = None
    evals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    normalizer: tuple[float, float] | None = None
    save_rows: tuple[Callable[[], None], ...] = ()


class Source(Protocol):
    """A source of batches. Its state `s`, a pytree, is in every checkpoint and decides alone which
    batches follow; a `place` is the part of it that says how far the data was read, as numbers on
    the host."""

    def init(self) -> dict[str, Any]:
        """The state before the first step."""

    def batch_shapes(self, s: dict[str, Any]) -> dict[str, Any]:
        """{name: `jax.ShapeDtypeStruct`} of the batch that follows a state."""

    def next(
        self, state: Any, frozen: Mapping[str, Any], s: dict[str, Any], step: int
    ) -> tuple[dict[str, jax.Array], dict[str, Any], dict[str, Any]]:
        """(batch, s, metrics) of a step; `state` is the TrainState before it."""

    def rollouts(self, s: dict[str, Any], steps: int) -> int:
        """The number of rollouts that the next `steps` steps need."""

    def progress(self, s: dict[str, Any]) -> dict[str, float]:
        """{metric: value} of how far the data was read, by source (`Loader.progress`)."""

    def examples(self, s: dict[str, Any], steps: int) -> int | None:
        """The number of examples, or of sampled answers, in the last `steps` batches before a
        state; None if it is unknown."""

    def place(self, s: dict[str, Any]) -> dict[str, Any]:
        """The place of a state."""

    def origins(self, place: Mapping[str, Any]) -> list[BatchOrigin]:
        """The rows of the last batch before a place."""

    def past(
        self, s: dict[str, Any], place: Mapping[str, Any], steps: int
    ) -> tuple[dict[str, Any], str]:
        """(an earlier state `s` moved to a later place, a text naming the data in between).

        Args:
          steps: the number of steps to come.

        Raises:
          DataError: the data is used up before.
        """


class Stage(NamedTuple):
    """The functions that train a run; train/step.py and train/attempt.py call them.

    Attributes:
      weights: batch -> {term: weight}, from masks alone.
      loss: (trainable, frozen, batch) -> ({term: sum}, {metric: (sum, weight)}); a metric named
        `…_max` is (the maximum, 1).
      source: the source of its batches.
      evaluation: data -> the stage's own evaluation, on the held-out rows of that data.
      first_pass: (trainable, frozen, batch) -> {name: (sum, weight)}, or None. Their means over the
        whole optimizer step are in the batch of `loss` under these names, without gradient.
      veto: metrics -> bool array, true to skip an update and the following ones until the source
        resets `stopped` (train/step.py).
    """

    weights: Callable
    loss: Callable
    source: Source
    evaluation: Callable[[Data], Evaluation]
    veto: Callable = lambda metrics: jnp.bool_(False)
    first_pass: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """A row of train/objectives/registry.py; every function has a default that does nothing.

    Attributes:
      schema: the schema of its data (data/schemas).
      trainable: roles that it trains. frozen: roles that it reads. optional: roles that it reads
        if `init_from` names them.
      build: Context -> Stage.
      origins: {trained role: roles of `init_from` that it can start from, the preferred one
        first}. A role that starts from another kind of network takes its backbone.
      report: its part of a chain's report.
      required: roles that `init_from` has to name.
      settings: the frozen dataclass of its own settings, the group `config.<stage>`; or None.
      configure: (objective, config) -> the objective with the fields that depend on settings.
      validate: config -> None; raises ConfigError if the settings do not fit together.
      divisible: config -> {setting: number that the mesh's batch shards have to divide}.
      precompute: (ctx, frozen, origins, workdir) -> (ctx, frozen), or None; called once before
        `build`. It adds to the rows what frozen models compute, and drops the models that are not
        needed afterwards.
      precomputed: {name: array or shape} of a batch -> {name: shape} that `precompute` adds to it.
      group_size: config -> answers to each prompt of a rollout.
      forwards: {role: number of forward passes over a batch's tokens} in an optimizer step, besides
        the one with a gradient.
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
    validate: Callable[[Any], None] = lambda config: None
    divisible: Callable[[Any], Mapping[str, int]] = lambda config: {}
    precompute: Callable | None = None
    precomputed: Callable[[Mapping], Mapping] = lambda batch: {}
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
    """A source of the batches of a data set. Its whole state is `step`, the number of the next
    batch: the number of steps taken, and more after a run has gone back.

    Args:
      whole: whether a row that is cut loses the rest of its segment (data/ramp.py's `cut`).
    """

    def __init__(self, ctx: Context, whole: bool = False):
        config = ctx.config
        local = functools.partial(sharding.local_rows, ctx.mesh)
        self._data = ctx.data
        self._loader = make_loader(
            config.data, ctx.data, config.data.batch_size, config.seed, local, config.steps, whole
        )
        if self._loader.steps_per_epoch < 1 and jax.process_index() == 0:
            rows = round(self._loader.steps_per_epoch * config.data.batch_size)
            console.print(
                f"  warning: a step reads data.batch_size={config.data.batch_size} rows, and the "
                f"data has {rows}: a step repeats them"
            )
        self._mesh, self._steps = ctx.mesh, ctx.config.steps
        self._batches: Iterator[dict[str, np.ndarray]] = iter(())
        self._range = range(0)  # the numbers of `_batches`

    def init(self) -> dict[str, np.ndarray]:
        return {"step": np.asarray(0, np.int32)}

    def batch_shapes(self, s: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        batch = sharding.put_batch(self._loader.batch(int(s["step"])), self._mesh)
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in batch.items()
        }

    def next(
        self, state: Any, frozen: Mapping[str, Any], s: Mapping[str, Any], step: int
    ) -> tuple[dict[str, jax.Array], dict[str, np.ndarray], dict]:
        del state, frozen
        first = int(s["step"])
        numbers = range(first, first + self._steps - step)
        if self._range != numbers:
            self._batches = self._loader.iterate(numbers.start, numbers.stop)
        batch = sharding.put_batch(next(self._batches), self._mesh)
        self._range = numbers[1:]
        return batch, {"step": np.asarray(first + 1, np.int32)}, {}

    def rollouts(self, s: Mapping[str, Any], steps: int) -> int:
        del s, steps
        return 0

    def progress(self, s: Mapping[str, Any]) -> dict[str, float]:
        return self._loader.progress(int(s["step"]))

    def examples(self, s: Mapping[str, Any], steps: int) -> int | None:
        end = int(s["step"])
        return self._loader.examples(range(end - steps, end))

    def place(self, s: Mapping[str, Any]) -> dict[str, int]:
        return {"step": int(s["step"])}

    def origins(self, place: Mapping[str, int]) -> list[BatchOrigin]:
        return [BatchOrigin.of("batch", place["step"] - 1, self._loader, self._data)]

    def past(
        self, s: Mapping[str, Any], place: Mapping[str, int], steps: int
    ) -> tuple[dict[str, np.ndarray], str]:
        first, end = int(s["step"]), place["step"]
        self._loader.require(end + steps)
        past = f"batches {first} to {end - 1}" if end - first > 1 else f"batch {first}"
        return {"step": np.asarray(end, np.int32)}, past
