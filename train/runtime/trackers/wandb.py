"""Weights & Biases, on its server or in offline files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from train.runtime import strict_json
from train.runtime.trackers.base import Target, Tracker


class WandB(Tracker):
    """A run of Weights & Biases, whose files are in `wandb/` of the workdir.

    Metrics are drawn over their own `step`: the counter of Weights & Biases refuses the steps that
    a resumed run repeats, with the same values.
    """

    def __init__(self, target: Target):
        import wandb

        self._table = wandb.Table
        # Offline every attempt is a file of its own, with the same id, and `wandb sync` joins them.
        offline = target.offline or os.environ.get("WANDB_MODE") == "offline"
        settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, disable_code=True
        )
        self._run = wandb.init(
            project=target.project, name=target.name, dir=str(target.workdir), settings=settings,
            id=target.id, resume=None if offline else "allow", mode="offline" if offline else None,
        )  # fmt: skip
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def write_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        names = list(dict.fromkeys(name for sample in samples for name in sample))
        rows = [[_text(sample.get(name, "")) for name in names] for sample in samples]
        if rows:
            self._run.log({"step": step, "samples": self._table(columns=names, data=rows)})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else strict_json.dumps(value, ensure_ascii=False)
