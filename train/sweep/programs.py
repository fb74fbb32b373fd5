"""Compiled programs of a sweep: which trials share one, and how many there really are."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from train.assembly import ramps
from train.assembly.programs import Jitted, jitted
from train.assembly.run import Run
from train.optimizer import SCHEDULES, table_length
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


def split(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials in groups, of which each shares a program."""
    groups = dict[str, list[Trial]]()
    for trial in trials:
        constants = {k: v for k, v in trial.settings.items() if not is_shared(k) and k != "steps"}
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
      used: keys of the programs. compiled: keys of those that were not in the cache.
    """

    def __init__(self):
        super().__init__()
        self.used, self.compiled = set[str](), set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Counts a message of the cache; others than warnings go no further."""
        if isinstance(record.args, tuple) and len(record.args) == 2 and record.args[0] == STEP:
            key, text = str(record.args[1]), record.msg.lower()
            if text.startswith("persistent compilation cache"):
                self.used.add(key)
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


class Steps:
    """The jitted steps of this process (`Hooks.jit`): a run whose step is the same program gets
    that of an earlier run, and is neither traced nor compiled again.

    Args:
      count: of the programs.
    """

    def __init__(self, count: Count):
        self._count, self._steps, self._used = count, dict[str, Jitted](), dict[str, list[str]]()
        self._present = ""

    def __call__(self, run: Run) -> Jitted:
        """The jitted step of a run."""
        self._count.used.clear()
        self._present = _constants(run)
        if self._present not in self._steps:
            self._steps[self._present] = jitted(run)
        return self._steps[self._present]

    def programs(self) -> list[str]:
        """Keys of the programs of the last step that was asked for."""
        used = self._used.setdefault(self._present, [])
        used += sorted(self._count.used - {*used})
        return used


def _constants(run: Run) -> str:
    """Everything that may be a constant of a run's step."""
    ctx = run.ctx
    settings = {k: v for k, v in flatten(ctx.config).items() if not is_shared(k) and k != "steps"}
    lengths = {role: table.shape for role, table in run.rates.items()}
    return repr((settings, lengths, ctx.models, run.content, run.origins, ctx.mesh.shape))
