"""Trackio, in a database on this machine or in a Space."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from train.runtime.trackers.base import Target, Tracker
from train.runtime.trackers.tensorboard import samples_text


class TrackIO(Tracker):
    """A run of Trackio, with the id of the run in its name: names are all that Trackio knows runs
    by."""

    def __init__(self, target: Target):
        import trackio
        from trackio import run, utils

        # It prints what it does, in the middle of the progress; to redirect stdout would take the
        # lines of the run too.
        for module in (trackio, run, utils):
            vars(module)["print"] = lambda *texts, **_: logging.info(" ".join(map(str, texts)))
        self._target, self._trackio = target, trackio
        self._run: Any = None

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Begins the run, which has its settings from the start."""
        target = self._target
        self._run = self._trackio.init(
            project=target.project, name=f"{target.name}-{target.id}", resume="allow",
            space_id=None if target.offline else os.environ.get("TRACKIO_SPACE_ID"),
            config=dict(settings), embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        if samples:
            self._run.log({"samples": self._trackio.Markdown(samples_text(samples))}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish()
