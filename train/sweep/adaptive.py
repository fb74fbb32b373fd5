"""Adaptive search: Optuna's TPE chooses each trial by the ones before, and gives up runs that fall
behind the median (Akiba et al. 2019, arXiv:1907.10902).

The search keeps no state of its own: started again, it asks for the same trials, because its draws
are seeded, and reads the results of those that have ended.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any

from ranges import ConfigError
from train.sweep import results
from train.sweep.grid import Space, rounded
from train.sweep.metric import Metric
from train.sweep.results import PRUNED, Measured
from train.sweep.runner import AfterEvaluation, Pruned
from train.sweep.trials import Run

# (the runs of a point, an AfterEvaluation for a run or None): runs them
RunPoint = Callable[[Mapping[str, str]], list[Run]]
RunOne = Callable[[Run, AfterEvaluation | None], None]


def check(space: Space, seeds: int, evaluates: bool) -> str:
    """A note on what the search does not do; "" if it does all.

    Raises:
      ConfigError: Optuna is not installed, or the space has lists that go pairwise.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search=optuna needs Optuna: pip install 'optuna>=4.5'")
    if space.zipped:
        raise ConfigError(
            "--search=optuna chooses each setting apart; use --grid in place of --zip"
        )
    if not space.keys:
        raise ConfigError(
            "--search=optuna has nothing to choose; type --log_uniform=optimizer.peak_lr=1e-4:1e-2"
        )
    if seeds > 1:
        return "no run is given up early, as a trial's value is the mean over its seeds"
    return "" if evaluates else "no run is given up early: --config.evaluate.every=N allows it"


def search(
    space: Space, integers: Mapping[str, bool], metric: Metric, seeds: int,
    runs_of: RunPoint, run_one: RunOne,
) -> None:  # fmt: skip
    """Runs the trials that Optuna asks for, one after the other."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=space.seed),
        pruner=optuna.pruners.MedianPruner(),
    )
    for _ in range(space.trials):
        trial = study.ask()
        runs = runs_of(_point(trial, space, integers))
        prunings = [_Pruning(trial, run, metric) for run in runs[:1] if seeds == 1]
        for run in runs:
            run_one(run, prunings[0] if prunings else None)
        measured = [results.measure(run.workdir, metric) for run in runs]
        for pruning in prunings:  # of a run that had ended before
            pruning.report_all(measured[0])
        finals = [metric.worth(m.final) for m in measured if m.final is not None]
        if len(finals) == len(runs):
            study.tell(trial, sum(finals) / len(finals))
        elif measured[0].status == PRUNED:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _point(trial: Any, space: Space, integers: Mapping[str, bool]) -> dict[str, str]:
    """The point that a trial of Optuna asks for."""
    point = {axis.key: trial.suggest_categorical(axis.key, axis.values) for axis in space.grid}
    for draw in space.draws:
        value = trial.suggest_float(draw.key, draw.low, draw.high, log=draw.log)
        point[draw.key] = rounded(value, integers[draw.key])
    return point


class _Pruning:
    """An AfterEvaluation that reports to the pruner, and asks it, at each evaluation between the
    first and the last; in a run that resumes also at those that it made before."""

    def __init__(self, trial: Any, run: Run, metric: Metric):
        self._trial, self._metric, self._steps = trial, metric, run.config.steps
        self._reported = set[int]()
        self._before = results.measure(run.workdir, metric).curve

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        points = [point for point in self._before if point[0] < step]
        points.append((step, values.get(self._metric.name, math.nan)))
        for point in points:
            if self._report(*point) and self._trial.should_prune():
                raise Pruned

    def report_all(self, measured: Measured) -> None:
        """Reports what a run has measured, without asking."""
        for point in measured.curve:
            self._report(*point)

    def _report(self, step: int, value: float) -> bool:
        """Whether a value is reported, which happens once."""
        if not 0 < step < self._steps or step in self._reported or not math.isfinite(value):
            return False
        self._reported.add(step)
        self._trial.report(self._metric.worth(value), step)
        return True
