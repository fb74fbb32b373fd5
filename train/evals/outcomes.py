"""Evaluations that may fail: whatever one raises is counted, and training goes on.

A failure is printed once for each evaluation, with its reason; metrics.jsonl has every one, as
`failed` in the record of its step; the end of the run counts them. It is tried again when it is
next due, and by a resumed run whose checkpoint is of that step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.evals.registry import Scheduled
from train.runtime import outputs, processes


def label(name: str) -> str:
    """The name of an evaluation in messages; that of the stage's own is `heldout`."""
    return f"evaluation {name or 'heldout'}"


def make(
    due: Iterable[Scheduled], trainable: Mapping[str, Any], frozen: Mapping[str, Any], ema: Any = ()
) -> tuple[dict[str, float], list[dict], dict[str, str]]:
    """(metrics, samples, {evaluation: the reason why it failed}) of the evaluations that are due.

    Args:
      ema: the averages of `TrainState`, which an evaluation of averages takes as `trainable`.

    One that fails in some process counts as failed in all. A process that fails alone, while others
    wait for it in a collective, ends (train/runtime/processes.py, `first_failure`).
    """
    values, samples, failed = dict[str, float](), list[dict](), dict[str, str]()
    for evaluation in due:
        name = label(evaluation.name)
        weights = {**trainable, **dict(ema)} if evaluation.averages else trainable
        result, reason = outputs.tried(name, _checked, evaluation, weights, frozen)
        if reason := processes.first_failure(name, reason):
            failed[evaluation.name] = reason
        else:
            values |= result[0]
            samples += result[1]
    return values, samples, failed


def _checked(evaluation: Scheduled, trainable, frozen) -> tuple[dict[str, float], list[dict]]:
    """The results of an evaluation, of which a plugin's may be anything.

    Raises:
      Exception: whatever the evaluation raises; also for a metric that is no number, or a sample
        that is no JSON.
    """
    values, samples = evaluation(trainable, frozen)
    values = {
        str(name): value if isinstance(value, int | float) else float(value)
        for name, value in values.items()
    }
    for sample in samples:
        json.dumps({**sample})
    return values, samples


class Outcomes:
    """Counts, by evaluation, how often it was made and how often it failed, over all attempts.

    Args:
      evaluations: of the run. steps: the run's last step. records: of the evaluations so far, from
        metrics.jsonl.
    """

    def __init__(self, evaluations: Sequence[Scheduled], steps: int, records: Iterable[dict]):
        self._evaluations, self._steps = evaluations, steps
        self._printed: set[str] = set()
        self.restart(records)

    def restart(self, records: Iterable[dict]) -> None:
        """Counts anew, from the records of a run that went back."""
        self._made, self._failed = Counter[str](), Counter[str]()
        self._last = dict[str, tuple[int, str]]()  # {evaluation: (step, reason)} of a failure
        for record in records:
            self._count(record["step"], record.get("failed", {}))

    def _count(self, step: int, failed: Mapping[str, str]) -> None:
        for evaluation in self._evaluations:
            name = evaluation.name
            if name in failed:
                self._failed[name] += 1
                self._last[name] = step, failed[name]
            elif evaluation.due(step, self._steps):
                self._made[name] += 1

    def record(self, step: int, failed: Mapping[str, str]) -> list[str]:
        """Counts the evaluations of a step; returns the warnings to print."""
        self._count(step, failed)
        new = failed.keys() - self._printed
        self._printed |= new
        return [
            f"  warning: {label(name)} failed at step {step} and is tried again when it is next "
            f"due: {failed[name]}"
            for name in failed
            if name in new
        ]

    def summary(self) -> list[str]:
        """The lines about failures for the end of a run."""
        lines = []
        for name, count in self._failed.items():
            step, reason = self._last[name]
            lines.append(
                f"  warning: {label(name)} failed {count} of {count + self._made[name]} times, the "
                f"last at step {step}: {reason}"
            )
        if lines and not self._made:
            lines.append(
                "  warning: no evaluation succeeded, so nothing has measured what this run learned"
            )
        return lines
