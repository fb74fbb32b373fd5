"""The parts that trackers share: their base class, and the run that one is opened for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Target(NamedTuple):
    """The run that a tracker is opened for.

    Attributes:
      workdir: a folder on this machine, whose files are in the run's workdir in the end.
      name: of the run. project, offline: see `TrackingConfig`.
      start: the step that the run resumes from, or 0.
      id: of the tracked run: the same in every attempt at the run, and in no other run.
    """

    workdir: Any
    name: str
    project: str
    offline: bool
    start: int
    id: str


class Tracker:
    """A place that receives a run. Whatever a method raises is counted and does not end the run."""

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Receives the settings of the run, {dotted name: value}; once an attempt."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Receives scalars. A resumed run repeats the steps after its checkpoint."""

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Receives samples: texts, and JSON values about them."""

    def go_back(self, step: int) -> None:
        """Learns that the run goes back to `step`, and repeats the steps after it."""

    def close(self, finished: bool) -> None:
        """Ends the attempt; `finished`: whether the run has taken its last step."""
