"""Goodput: the time of a run by use, over all its attempts, in its workdir's `goodput.json`.

Every second of a process counts as one of `PARTS`. Steps that an attempt repeats, because the
previous one was killed after its last checkpoint, are `lost`. The time between two attempts, from
the last record of the first to the start of the second, is counted separately. Records are written
at most every 10 seconds, since on a mounted bucket each is an upload; the time of a killed process
after its last record counts as time between attempts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Literal, TypedDict, get_args

import jax
import msgspec
from etils import epath

from data.atomic import write_atomically
from data.errors import DataError
from data.read import json_files
from train.guards.watchdog import STEP, Activity
from train.runtime import outputs, strict_json
from train.terminal.console import duration

# `rollout`: the answers of PPO and GRPO, sampled and scored. `data_wait`: the other batches.
Part = Literal[
    "init", "compile", "restore", "data_wait", "rollout", "step", "evaluate", "checkpoint", "lost"
]
PARTS: tuple[str, ...] = get_args(Part)
GOOD = ("step", "rollout")
# JAX's events of compilation, wherever it happens. Tracing counts in the part where it happens, as
# its events are nested.
_COMPILED = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


EVERY = 10.0
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Record(TypedDict, total=False):
    """The entries of goodput.json that the next attempt reads."""

    seconds: dict[Part, Seconds]
    attempts: Annotated[int, msgspec.Meta(ge=0)]
    written_at: Seconds
    between_seconds: Seconds
    lost_steps: Annotated[int, msgspec.Meta(ge=0)]
    steps: Annotated[int, msgspec.Meta(ge=0)]


class Goodput:
    """The clock of one attempt: a context, which begins in the part `init`.

    Args:
      begun: start of the attempt (time.time()); by default now. writes: whether to write the file.

    Attributes:
      seconds: {part: seconds in all attempts}. part: the part that time counts as now.
      activity: what the watchdog watches.
    """

    def __init__(self, workdir: epath.PathLike, begun: float | None = None, writes: bool = True):
        self._path, self._writes = epath.Path(workdir) / "goodput.json", writes
        record = _read(self._path)
        self._since, self.part = begun or time.time(), "init"
        self.seconds = dict.fromkeys(PARTS, 0.0) | record.get("seconds", {})
        self._attempts = record.get("attempts", 0) + 1
        gap = self._since - record.get("written_at", self._since)
        self._between = record.get("between_seconds", 0.0) + max(0.0, gap)
        self._lost_steps = record.get("lost_steps", 0)
        self._known = self._reached = record.get("steps", 0)
        self._written, self._lap = -EVERY, dict(self.seconds)
        self.activity, self._worked = Activity(), self._step_seconds()

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._compiled)

    def _compiled(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event in _COMPILED and threading.current_thread() is threading.main_thread():
            self.seconds[self.part] -= duration_secs
            self.seconds["compile"] += duration_secs

    def enter(self, part: str) -> str:
        """Counts time as `part` from now on; returns the part before."""
        now, previous_part = time.time(), self.part
        self.seconds[previous_part] += now - self._since
        self._since, self.part = now, part
        return previous_part

    @contextlib.contextmanager
    def time(self, part: str, activity: str = "") -> Iterator[None]:
        """A context whose time counts as `part`, and is watched as an activity, by default of that
        name."""
        previous_part = self.enter(part)
        try:
            with self.activity.during(activity or part):
                yield
        finally:
            self.enter(previous_part)

    def step(self, number: int) -> None:
        """Begins step `number`, from 0, which counts as lost if an earlier attempt took it."""
        repeated = number < self._known
        self._lost_steps += repeated
        self.enter("lost" if repeated else "step")
        self.activity.enter(STEP)

    def _step_seconds(self) -> float:
        return self.seconds["step"] + self.seconds["lost"]

    def go_back(self, steps: int) -> None:
        """Notes that `steps` are done, some of which the run takes again: they count as lost."""
        self._known = self._reached = max(self._reached, steps)

    def lap(self) -> dict[str, float]:
        """{part: seconds since the last call}."""
        self.enter(self.part)
        lap = {part: seconds - self._lap[part] for part, seconds in self.seconds.items()}
        self._lap = dict(self.seconds)
        return lap

    def record(self, steps: int) -> None:
        """Notes that `steps` are done, and their metrics read; writes the file at most every
        `EVERY` seconds."""
        self._reached = max(self._reached, steps)
        self.enter(self.part)
        self.activity.recorded(self._step_seconds() - self._worked)
        self._worked = self._step_seconds()
        if time.time() - self._written >= EVERY:
            self.write()

    def write(self) -> None:
        """Writes the file."""
        self.enter(self.part)
        self._written = self._since
        if self._writes:
            record = {
                "goodput": round(self._share(), 4),
                "seconds": {part: round(s, 3) for part, s in self.seconds.items()},
                "attempts": self._attempts,
                "between_seconds": round(self._between, 3),
                "steps": self._reached,
                "lost_steps": self._lost_steps,
                "written_at": self._since,
            }
            try:
                write_atomically(self._path, strict_json.dumps(record, indent=2) + "\n")
            except OSError as error:
                outputs.failed(self._path.name, error, "the file keeps its old content")

    def _share(self) -> float:
        return sum(self.seconds[part] for part in GOOD) / (sum(self.seconds.values()) or 1.0)

    def summary(self) -> list[str]:
        """The share of the time that went into new steps, and the time of each part."""
        self.enter(self.part)
        shown = [
            f"{part.replace('_', ' ')} {_time(s)}"
            + (f" ({self._lost_steps} steps)" if part == "lost" else "")
            for part, s in sorted(self.seconds.items(), key=lambda item: -item[1])
            if s >= 0.05
        ]
        text = f"goodput {self._share():.0%} of {_time(sum(self.seconds.values()))}"
        if self._attempts > 1:
            text += f" in {self._attempts} attempts, {_time(self._between)} between them"
        return [f"{text}: {shown[0]}", *shown[1:]] if shown else [text]


def _read(path) -> dict:
    """The content of goodput.json; empty if it is damaged, which does not end a run."""
    try:
        return json_files.read(path, Record) if path.exists() and path.stat().length else {}
    except (OSError, DataError) as error:
        logging.warning("%s; its earlier attempts are not counted", error)
        return {}


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"
