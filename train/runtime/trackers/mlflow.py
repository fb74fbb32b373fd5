"""MLflow, on a server or in a database."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from train.runtime import strict_json
from train.runtime.trackers.base import Target, Tracker
from train.runtime.trackers.tensorboard import samples_text

TAG = "seedpod.id"
# The largest requests, and the longest value, that MLflow takes.
MOST_METRICS, MOST_PARAMS, MOST_CHARACTERS = 1000, 100, 6000


class MLflow(Tracker):
    """A run of MLflow; its experiment is the project."""

    def __init__(self, target: Target):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._metric, self._param = entities.Metric, entities.Param
        local = f"sqlite:///{os.path.abspath('mlflow.db')}"
        self._client = client = MlflowClient(local if target.offline else None)
        known = client.get_experiment_by_name(target.project)
        number = known.experiment_id if known else client.create_experiment(target.project)
        runs = client.search_runs([number], f"tags.`{TAG}` = '{target.id}'", max_results=1)
        if runs:
            self._id = runs[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            run = client.create_run(number, tags={TAG: target.id}, run_name=target.name)
            self._id = run.info.run_id

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """A parameter cannot change in MLflow: those that a resumed run has changed are tags."""
        known = self._client.get_run(self._id).data.params
        params = []
        for name, value in settings.items():
            text = value if isinstance(value, str) else strict_json.dumps(value)
            name, text = _name(name), text[:MOST_CHARACTERS]
            if name not in known:
                params.append(self._param(name, text))
            elif known[name] != text:
                self._client.set_tag(self._id, f"changed.{name}", text)
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(_name(name), float(x), now, step) for name, x in values.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        if samples:
            self._client.log_text(self._id, samples_text(samples), f"samples/{step}.md")

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _name(name: str) -> str:
    """A name of the characters that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", name)
