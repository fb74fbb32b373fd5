"""The updates of a run that were not applied, counted on the host a few steps later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from data.preview import short_list
from train.guards import numbers
from train.guards.origins import BatchOrigin

MOST_PENDING = 20  # steps that are not looked at
MOST_SOURCES = 1000  # in a record of metrics.jsonl


class Fault(NamedTuple):
    """An update that was not applied.

    Attributes:
      step: its number, from 1. cause: one of `numbers.CAUSES`. place: of the source after its batch
        (train/objectives/base.py).
    """

    step: int
    cause: str
    place: Mapping[str, Any]


class Faults:
    """The faults of a run's steps. Nothing waits for the devices but `look`.

    Args:
      limit: number of faults in a row after which the run has to go back.
      in_a_row: number of faults directly before the first step.

    Attributes:
      in_a_row: number of faults directly before the next step, of the steps that were looked at.
      last: the fault after which the run has to go back, or None: one that ruined the weights, or
        that completes `limit` in a row. It is the same whenever `look` is called, as later steps
        are ignored.
    """

    def __init__(self, limit: int, in_a_row: int = 0):
        self._limit, self.in_a_row = limit, in_a_row
        self._pending: list[tuple[jax.Array, int, Mapping[str, Any]]] = []
        self.last: Fault | None = None

    def __len__(self) -> int:
        """The number of steps that were not looked at."""
        return len(self._pending)

    def add(self, fault: jax.Array, step: int, place: Mapping[str, Any]) -> None:
        """Adds a step. `fault`: its index into `numbers.CAUSES`, on the devices."""
        self._pending.append((fault, step, place))

    def look(self) -> list[Fault]:
        """The faults among the steps since the last call."""
        faults = list[Fault]()
        codes = jax.device_get([code for code, _, _ in self._pending])
        for code, (_, step, place) in zip(codes, self._pending, strict=True):
            if self.last:
                break
            self.in_a_row = self.in_a_row + 1 if code else 0
            if code:
                faults.append(Fault(step, numbers.CAUSES[code], place))
                goes_back = code == numbers.RUINED or self.in_a_row >= self._limit
                self.last = faults[-1] if goes_back else None
        self._pending = []
        return faults


def record(fault: Fault, origins: Sequence[BatchOrigin]) -> dict[str, Any]:
    """A record of metrics.jsonl, with the first `MOST_SOURCES` sources of its rows."""
    room, data = MOST_SOURCES, []
    for origin in origins:
        sources = []
        for places in origin.sources:
            sources.append(places[:room])
            room -= len(sources[-1])
        data.append(origin._asdict() | {"sources": sources})
    return {"cause": fault.cause, "data": data}


def message(fault: Fault, origins: Sequence[BatchOrigin]) -> list[str]:
    """The parts of a line of the terminal."""
    parts = [f"  step {fault.step}: update not applied, {fault.cause}"]
    for origin in origins:
        rows = f"rows {short_list([str(row) for row in origin.rows])}"
        places = list(dict.fromkeys(place for row in origin.sources for place in row))
        parts += [f"{origin.kind} {origin.number}", rows, *filter(None, [short_list(places)])]
    return parts


def saved_losses(losses: Any) -> list[float]:
    """`TrainState.losses` as JSON, without the NaN before the first."""
    values = np.asarray(losses, np.float64)
    return values[np.isfinite(values)].tolist()


def restored_losses(values: Sequence[float]) -> np.ndarray:
    """`TrainState.losses` of the values that `saved_losses` gave."""
    losses = np.full(numbers.WINDOW, np.nan, np.float32)
    losses[len(losses) - len(values) :] = values
    return losses
