"""Compiled programs of a sweep: which trials share one, and how many there really are."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

import jax

from train.assembly import ramps
from train.assembly.programs import Jitted, compile_step, in_thread, jitted
from train.assembly.run import Run, with_config
from train.config.run import RunConfig
from train.optimizer import SCHEDULES, table_length
from train.step import TrainState
from train.sweep.trials import Trial, flatten, short

# Settings, or groups, that no step has as constants: the learning rates are its argument, averages
# of weights are another program, and the loop reads the others. A trial that differs in another one
# may need a program of its own.
_SHARED = ("seed", "log_every", "evaluate", "evals", "checkpoint", "watchdog")
_RATES = (
    "peak_lr", "schedule", "warmup_steps", "final_fraction", "decay_fraction", "cycles", "ema",
)  # fmt: skip
_OPTIMIZERS = ("optimizer", "value_optimizer")
STEP = "jit_train_step"  # the name of the program of the step


def is_shared(key: str) -> bool:
    """Whether trials that differ in a setting share a program."""
    group, *names = key.split(".")
    if group in _OPTIMIZERS:
        return bool(names) and names[0] in (*_RATES, *SCHEDULES.fields())
    return group in _SHARED


def _unshared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that may be constants of a step."""
    return {k: v for k, v in settings.items() if not is_shared(k) and k != "steps"}


def split(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials in groups, of which each shares a program."""
    groups = dict[str, list[Trial]]()
    for trial in trials:
        constants = _unshared(trial.settings)
        group = repr((constants, table_length(trial.config.steps)))
        groups.setdefault(group, []).append(trial)
    return list(groups.values())


def describe(trials: Sequence[Trial], runs: int) -> str:
    """A line on which trials share a program, and what splits them."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    tables = {table_length(trial.config.steps) for trial in trials}
    split_by = [k for k in keys if not is_shared(k) and (k != "steps" or len(tables) > 1)]
    shared = [short(k) for k in keys if k not in split_by]
    count = sum(
        len({level.shape for level in ramps.levels(group[0].config)}) for group in split(trials)
    )
    text = f"{runs} run{'s' * (runs != 1)}, {count} program{'s' * (count != 1)}"
    if split_by:
        text += f": {', '.join(map(short, split_by))} {_verb(split_by, 'change')} the program"
        text += f", {', '.join(shared)} {_verb(shared, 'do')} not" if shared else ""
    return text


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if names[1:] else {"do": "does"}.get(verb, f"{verb}s")


class Count(logging.Filter):
    """The programs of the step that this process has used: what JAX's compilation cache says of
    each, which is the only place that names them.

    Attributes:
      asking: `step` of the thread, the step that it traces or calls. used: {step: keys of its
        programs}. compiled: keys of those that were not in the cache.
    """

    def __init__(self):
        super().__init__()
        self.asking, self.used, self.compiled = threading.local(), dict[str, set[str]](), set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Counts a message of the cache; others than warnings go no further."""
        if isinstance(record.args, tuple) and len(record.args) == 2 and record.args[0] == STEP:
            key, text = str(record.args[1]), record.msg.lower()
            if text.startswith("persistent compilation cache"):
                self.used.setdefault(getattr(self.asking, "step", ""), set()).add(key)
                if "miss" in text:
                    self.compiled.add(key)
        return record.levelno > logging.DEBUG


@contextlib.contextmanager
def counted() -> Iterator[Count]:
    """A context in which programs are counted."""
    logger, count = logging.getLogger("jax._src.compiler"), Count()
    level = logger.level
    logger.addFilter(count)
    logger.setLevel(logging.DEBUG)
    try:
        yield count
    finally:
        logger.setLevel(level)
        logger.removeFilter(count)


class Counted:
    """A jitted step whose programs are counted as its own.

    Args:
      name: of the step.

    Attributes:
      then: called once, after the next call of the step.
    """

    def __init__(self, step: Jitted, name: str, count: Count):
        self._step, self._name, self._count = step, name, count
        self.then: Callable[[], None] | None = None

    def __call__(self, *args: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        self._count.asking.step = self._name
        out = self._step(*args)
        if then := self.then:
            self.then = None
            then()
        return out

    def lower(self, *args: Any) -> jax.stages.Lowered:
        self._count.asking.step = self._name
        return self._step.lower(*args)


class Steps:
    """The jitted steps of this process (`Hooks.jit`): a run whose step is the same program gets
    that of an earlier run, and is neither traced nor compiled again. The next program is compiled
    in a thread while the runs of the present one train.

    Args:
      count: of the programs.

    Attributes:
      coming: the settings of the next trial's runs, if they are known.
      compiled: called when a run has taken its first step.
    """

    def __init__(self, count: Count):
        self._count, self._steps, self._present = count, dict[str, Counted](), ""
        self._ahead, self._begun = dict[str, Future](), set[str]()
        self.coming: RunConfig | None = None
        self.compiled: Callable[[], None] = lambda: None

    def __call__(self, run: Run) -> Jitted:
        """The jitted step of a run."""
        self._present = _name(run)
        if ahead := self._ahead.get(self._present):
            wait([ahead])  # an error is raised by the step itself, which tries again
        step = self._step(run)
        step.then = functools.partial(self._after_first, run)
        return step

    def programs(self) -> list[str]:
        """Keys of the programs of the last step that was asked for."""
        return sorted(self._count.used.get(self._present, ()))

    def _step(self, run: Run) -> Counted:
        name = _name(run)
        if name not in self._steps:
            self._steps[name] = Counted(jitted(run), name, self._count)
        return self._steps[name]

    def _after_first(self, run: Run) -> None:
        """Begins with the next program, if it differs in nothing but the optimizer: then it depends
        on nothing that is not open for the present run."""
        self.compiled()
        present, config = constants(run.ctx.config), self.coming
        self._begun.add(repr(present))
        if config is None or config.budget or repr(constants(config)) in self._begun:
            return
        ours, theirs = (
            {k: v for k, v in values.items() if k.split(".")[0] not in _OPTIMIZERS}
            for values in (present, constants(config))
        )
        if ours == theirs:
            coming = with_config(run, config)
            step, source = self._step(coming), coming.abstract.source
            self._ahead[_name(coming)] = in_thread(
                functools.partial(compile_step, coming, step, source)
            )


def constants(config: RunConfig) -> dict[str, Any]:
    """{setting: value} of those that may be constants of a step."""
    return _unshared(flatten(config)) | {"steps": table_length(config.steps)}


def _name(run: Run) -> str:
    """Everything that may be a constant of a run's step."""
    ctx = run.ctx
    lengths = {role: table.shape for role, table in run.rates.items()}
    return repr(
        (constants(ctx.config), lengths, ctx.models, run.content, run.origins, ctx.mesh.shape)
    )
