"""Trackio, in a database on this machine or in a Space. This is the only module that imports
`trackio`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import trackio
import trackio.run
import trackio.utils

from train.runtime.trackers.base import Target, Tracker
from train.runtime.trackers.tensorboard import samples_text

# Trackio prints what it does, in the middle of the progress; a redirected stdout would take the lines
# of the run with it.
for module in (trackio, trackio.run, trackio.utils):
    vars(module)["print"] = lambda *texts, **_: logging.info(" ".join(map(str, texts)))


class TrackIO(Tracker):
    """A run of Trackio, with the id of the run in its name: names are all that Trackio knows runs
    by."""

    def __init__(self, target: Target):
        self._target = target
        self._run: Any = None

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Begins the run, which has its settings from the start."""
        target = self._target
        self._run = trackio.init(
            project=target.project, name=f"{target.name}-{target.id}", resume="allow",
            space_id=None if target.offline else os.environ.get("TRACKIO_SPACE_ID"),
            config=dict(settings), embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        if samples:
            self._run.log({"samples": trackio.Markdown(samples_text(samples))}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish()
