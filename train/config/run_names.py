"""Names of the models of runs: RUN, RUN@STEP, and RUN@ema of the averages of weights."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from etils import epath

from ranges import ConfigError


class ModelName(NamedTuple):
    """The parts of the name of a run's model: RUN, RUN@STEP, RUN@ema or RUN@STEP@ema.

    Attributes:
      step: of the checkpoint; None for the newest. averages: whether the name is that of the moving
        averages of the weights (`optimizer.ema`).
    """

    workdir: str
    step: int | None = None
    averages: bool = False

    def __str__(self) -> str:
        step = "" if self.step is None else f"@{self.step}"
        return f"{self.workdir}{step}{'@ema' * self.averages}"


def split_name(name: epath.PathLike) -> ModelName:
    """The parts of a model's name.

    A folder whose name has such an end is itself, if it exists.
    """
    whole = str(name)
    match = re.fullmatch(r"(.+?)(@\d+)?(@ema)?", whole, re.DOTALL)
    if not match or match[1] == whole or epath.Path(whole).exists():
        return ModelName(whole)
    base = f"{match[1]}{match[2] or ''}"
    if not match[2] or epath.Path(base).exists():
        return ModelName(base, None, bool(match[3]))
    return ModelName(match[1], int(match[2][1:]), bool(match[3]))


def split_step(name: epath.PathLike) -> tuple[str, int | None]:
    """The workdir and the step of a model's name."""
    return split_name(name)[:2]


def check_step(workdir: epath.PathLike, step: int, steps: Collection[int]) -> None:
    """Refuses a step that a workdir has no checkpoint of, and names the nearest.

    Args:
      steps: those that it has.

    Raises:
      ConfigError: it lacks `step`.
    """
    if not steps:
        raise ConfigError(f"{workdir} holds no checkpoint; train that stage first")
    if step not in steps:
        nearest = min(sorted(steps), key=lambda other: abs(other - step))
        raise ConfigError(
            f"{workdir} holds no checkpoint of step {step}; the nearest is {workdir}@{nearest} (it "
            f"has {', '.join(map(str, sorted(steps)))})"
        )
