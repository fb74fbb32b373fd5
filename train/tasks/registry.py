"""The benchmarks that `--tasks` and `config.evals.NAME.task` may name.

A task of one's own is a YAML file (train/tasks/own), or a row that a plugin registers:

    from train.tasks.registry import TASKS

    TASKS.register("capitals", Task("capitals", …))
"""

from __future__ import annotations

from collections.abc import Iterable

from registry import Registry
from train.tasks.base import Suite, Task
from train.tasks.own.load import load
from train.tasks.rows import (
    bias,
    core,
    ifeval,
    language,
    mathematics,
    memorisation,
    multiple_choice,
    refusals,
    truthfulness,
)
from train.tasks.support import grounded

TASKS: Registry[Task | Suite] = Registry("task", "tasks")

_ROWS: tuple[Iterable[Task | Suite], ...] = (
    multiple_choice.TASKS,
    language.TASKS,
    mathematics.TASKS,
    truthfulness.TASKS,
    ifeval.TASKS,
    refusals.TASKS,
    bias.TASKS,
    memorisation.TASKS,
    grounded.TASKS,
    core.TASKS,
)
for _rows in _ROWS:
    for _row in _rows:
        TASKS.register(_row.name, _row)


def find(name: str, key: str = "") -> Task | Suite:
    """The benchmark of a name, or of a YAML file.

    Args:
      key: the setting that names it, for the message; by default `tasks`.

    Raises:
      ConfigError: there is none of that name. DataError: the file is not a task.
    """
    if name.endswith((".yaml", ".yml")):
        return load(name)
    return TASKS.find(name, key)
