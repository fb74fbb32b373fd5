"""A process that runs `train` and writes down what it does until its first step.

Its words are the time (time.time()) at which the process was started, the JSON file to write, and
those of `train`. It ends once the metrics of the first step are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# {event of JAX: what it is}. Tracing is nested, so intervals and not durations are kept.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
}


class Diary:
    """A record of what this process does.

    Attributes:
      phases: [name, start, end, processor seconds at its start, at its end] of the phases that the
        terminal names, outermost ones only. events: [kind, program, start, end] of tracing and
        compiling.
    """

    def __init__(self, spawned: float, path: str):
        self.spawned, self.path = spawned, path
        self.first_line = time.time(), sum(os.times()[:2])
        self.phases = list[list[Any]]()
        self.events = list[list[Any]]()
        self._depth = 0

    def heard(self, event: str, duration_secs: float, **about: Any) -> None:
        """A listener of `jax.monitoring`."""
        if kind := _EVENTS.get(event):
            now = time.time()
            self.events.append([kind, str(about.get("fun_name", "")), now - duration_secs, now])

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun, used = time.time(), sum(os.times()[:2])
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.phases.append([name, begun, time.time(), used, sum(os.times()[:2])])

    def end(self) -> None:
        """Writes the diary and ends the process."""
        record = {
            "spawned": self.spawned,
            "first_line": self.first_line,
            "phases": self.phases,
            "events": self.events,
            "end": [time.time(), sum(os.times()[:2])],
            "modules": len(sys.modules),
        }
        Path(self.path).write_text(json.dumps(record))
        os._exit(0)


def watch(diary: Diary) -> None:
    """Has the terminal's phases, JAX and the metrics tell the diary."""
    import jax

    from train.runtime.metrics import Metrics
    from train.terminal.progress import Progress

    shown, write = Progress.phase, Metrics.write

    @contextlib.contextmanager
    def phase(self, name, total):
        with diary.phase(name), shown(self, name, total) as inner:
            yield inner

    def written(self, step, kind, *args):
        write(self, step, kind, *args)
        if kind == "train":
            diary.end()

    Progress.phase, Metrics.write = phase, written  # type: ignore[method-assign]
    jax.monitoring.register_event_duration_secs_listener(diary.heard)


def main() -> None:
    spawned, path, *words = sys.argv[1:]
    diary = Diary(float(spawned), path)
    sys.argv = ["train", *words]
    watch(diary)
    runpy.run_module("train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
