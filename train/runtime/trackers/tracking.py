"""All trackers of an attempt at a run. None of them ends it, or holds a step: a failure is printed
once and counted (train/runtime/outputs.py), and those that may wait for a network have a thread
each, which may be behind by `MOST_WAITING` calls.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from etils import epath

from data.atomic import write_atomically
from data.errors import DataError
from data.read import json_files
from train.runtime import outputs, strict_json
from train.runtime.trackers.base import Target, Tracker
from train.runtime.trackers.registry import TRACKERS, TrackingConfig

MOST_WAITING = 10_000
# Seconds that a thread has at the end of a run that is stopped, or finished: a machine that is
# preempted has about 30.
PATIENCE = (15.0, 120.0)
INSTEAD = "metrics.jsonl has the metrics"


class Tracked(TypedDict):
    """The content of tracked.json: the id of the run for its trackers."""

    id: str


def tracked_id(workdir: epath.PathLike) -> str:
    """The id of a run, which its workdir keeps in tracked.json; a new one if it has none."""
    path = epath.Path(workdir) / "tracked.json"
    try:
        if path.exists():
            return json_files.read(path, Tracked)["id"]
        new = uuid.uuid4().hex[:12]
        write_atomically(path, strict_json.dumps({"id": new}) + "\n")
    except (OSError, DataError) as error:
        new = uuid.uuid4().hex[:12]
        outputs.failed(path.name, error, "a resumed run is tracked as another one")
    return new


class _Direct:
    """A tracker whose calls are made at once."""

    def __init__(self, name: str, open: Callable[[], Tracker]):
        self._name = f"tracker {name}"
        self._tracker: Tracker | None = None
        self._start(open)

    def _start(self, open: Callable[[], Tracker]) -> None:
        self._open(open)

    def _open(self, open: Callable[[], Tracker]) -> None:
        self._tracker = self._tried(open)

    def call(self, function: Callable[[Tracker], None]) -> None:
        """function(tracker), if it could be opened."""
        if self._tracker is not None:
            self._tried(function, self._tracker)

    def _tried(self, function: Callable, *args: Any) -> Any:
        result, reason = outputs.tried(self._name, function, *args)
        if reason:
            outputs.failed(self._name, reason, INSTEAD)
        return result

    def end(self, patience: float) -> None:
        """Waits for the calls so far, at most `patience` seconds."""


class _Threaded(_Direct):
    """A tracker that is opened and called in a thread of its own."""

    def _start(self, open: Callable[[], Tracker]) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(open,), daemon=True)
        self._thread.start()

    def _work(self, open: Callable[[], Tracker]) -> None:
        self._open(open)
        while (function := self._calls.get()) is not None:
            super().call(function)

    def call(self, function: Callable[[Tracker], None]) -> None:
        if self._calls.qsize() < MOST_WAITING:
            self._calls.put(function)
        else:
            outputs.failed(self._name, f"{MOST_WAITING} calls wait for it", INSTEAD)

    def end(self, patience: float) -> None:
        self._calls.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            reason = f"it did not end within {patience:g} s"
            outputs.failed(self._name, reason, INSTEAD, max(self._calls.qsize(), 1))


class Tracking:
    """The trackers of an attempt.

    Args:
      folder: a folder on this machine for their files. workdir: of the run; its name is the run's.
      start: the step that the run resumes from.
    """

    def __init__(
        self, names: Sequence[str], config: TrackingConfig, folder: epath.Path,
        workdir: epath.Path, start: int,
    ):  # fmt: skip
        identity = tracked_id(workdir) if any(TRACKERS[name].waits for name in names) else ""
        target = Target(folder, workdir.name, config.project, config.offline, start, identity)
        self._trackers = list[_Direct]()
        for name in names:
            row, settings = TRACKERS[name], TRACKERS.arguments(name, config)

            def open(row=row, settings=settings) -> Tracker:
                return row.open(target, **settings)

            self._trackers.append((_Threaded if row.waits else _Direct)(name, open))

    def _each(self, function: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            tracker.call(function)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.write_settings(settings))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.write(step, values))

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        self._each(lambda tracker: tracker.write_samples(step, samples))

    def go_back(self, step: int) -> None:
        self._each(lambda tracker: tracker.go_back(step))

    def close(self, finished: bool) -> None:
        self._each(lambda tracker: tracker.close(finished))
        for tracker in self._trackers:
            tracker.end(PATIENCE[finished])
