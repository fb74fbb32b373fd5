"""The runs of a sweep in turn, each as `python -m train` would run it in a workdir of its own.

A run that has ended leaves outcome.json; one that was interrupted resumes. Whatever ends a run is
shown and counted, and the next one begins.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from ranges import ConfigError
from train import loop
from train.attempt import Hooks
from train.runtime import outputs, processes
from train.runtime.records import read_metrics
from train.sweep import inputs, results
from train.sweep.metric import Metric
from train.sweep.programs import Count, Steps
from train.sweep.results import BROKEN, DIVERGED, FAILED, FINISHED, PRUNED, SETTLED, Outcome
from train.sweep.trials import Run
from train.terminal.console import console

# (step, metrics) after an evaluation; may raise Pruned
AfterEvaluation = Callable[[int, Mapping[str, float]], None]


class Pruned(Exception):
    """The search gives a run up, as others were better at this step."""


class Runner:
    """Runs the runs of a sweep.

    Args:
      sources: {key: the workdir with the inputs} (inputs.py). count: of compiled programs.
      total: number of runs, for the terminal.
    """

    def __init__(self, metric: Metric, sources: Mapping[str, epath.Path], count: Count, total: int):
        self.metric, self.sources, self.total = metric, dict(sources), total
        self.steps = Steps(count)

    def run_all(self, runs: Sequence[Run]) -> None:
        """Runs what has not ended yet.

        Raises:
          processes.Stopped: the process was asked to stop, and the run at work is saved.
        """
        for number, run in enumerate(runs, 1):
            others = (other for other in runs[number:] if other.trial != run.trial)
            self.steps.coming = None
            if (other := next(others, None)) and not results.read_outcome(other.workdir):
                self.steps.coming = other.config
            self.run(run, number)

    def run(self, run: Run, number: int, after_evaluation: AfterEvaluation | None = None) -> None:
        """Runs a run, unless it has ended.

        Args:
          number: its number, for the terminal.

        Raises:
          ConfigError: the run has finished and its evaluations lack the sweep's metric.
          processes.Stopped, processes.Unsaved: of `loop.run`.
        """
        place = f"{number}/{self.total} "
        before = results.read_outcome(run.workdir)
        if before and before["status"] in SETTLED:
            self._end(place, run, before)
            return
        if processes.asked_to_stop():
            raise processes.Stopped(f"stopped before {run.name}; the same command resumes there")
        console.print(f"[bold]▸ {place}{run.name}[/]", markup=True)
        outcome = self._outcome(run, place, after_evaluation)
        results.write_outcome(run.workdir, outcome)
        if outcome["status"] != FINISHED:
            gc.collect()  # the arrays of an error's frames
        self._end(place, run, outcome)

    def _outcome(self, run: Run, place: str, after_evaluation: AfterEvaluation | None) -> Outcome:
        """Runs a run to its end, whatever that is."""
        hooks = Hooks(jit=self.steps)
        if after_evaluation:
            hooks = hooks._replace(after_evaluation=after_evaluation)
        outputs.make_folder(run.workdir)
        outcome = Outcome(status=FINISHED)
        try:
            inputs.share(self.sources[inputs.key(run.config)], run)
            position = f"{place}{run.trial} "
            loop.run(run.config, run.workdir, position=position, hooks=hooks)
        except (processes.Stopped, processes.Unsaved):
            raise
        except Pruned:
            outcome = Outcome(status=PRUNED)
        except FloatingPointError as error:
            outcome = Outcome(status=DIVERGED, reason=outputs.reason(error))
        # Whatever else a run raises, plugins and libraries included, is its outcome: the other
        # runs of the sweep do not depend on it.
        except Exception as error:
            logging.info("%s failed", run.name, exc_info=True)
            outcome = Outcome(
                status=FAILED, reason=f"{type(error).__name__}: {outputs.reason(error):.300}"
            )
        return outcome | Outcome(status=outcome["status"], programs=self.steps.programs())

    def _end(self, place: str, run: Run, outcome: Outcome) -> None:
        """Shows the end of a run."""
        say(place, run, self.metric)
        if outcome["status"] == FINISHED:
            check_metric(run, self.metric)


def check_metric(run: Run, metric: Metric) -> None:
    """Refuses a metric that no evaluation of a finished run has.

    Raises:
      ConfigError: the evaluations have others.
    """
    records = read_metrics(run.workdir, "eval")
    if records and not any(metric.name in record for record in records):
        others = ("step", "kind", "elapsed_seconds", "not_finite", "failed")
        names = ", ".join(f"eval/{n}" for n in records[-1] if n not in others)
        raise ConfigError(
            f"--metric={metric.title}: {run.workdir} has no such metric; it has {names}. "
            "Type one of them: the runs that have finished stay"
        )


def say(place: str, run: Run, metric: Metric) -> None:
    """Prints the end of a run.

    Args:
      place: its number, as `3/12 `.
    """
    measured = results.measure(run.workdir, metric)
    text = measured.status
    if measured.final is not None:
        text = f"{metric.title} {measured.final:.4f}"
    elif measured.reason:
        text += f": {measured.reason}"
    mark, style = ("✗", "red") if measured.status in BROKEN else ("✓", "green")
    console.print(f"[{style}]{mark}[/] ", markup=True, end="")
    console.print(f"{place}{run.name}: {text}")


def program_line(workdirs: Sequence[epath.Path], compiled: int | None) -> str:
    """A line on the compiled steps of the runs that have ended; "" if they are not known.

    Args:
      compiled: number of those that were not in the cache; None if it is not known.
    """
    ended = [outcome for path in workdirs if (outcome := results.read_outcome(path))]
    used = {key for outcome in ended for key in outcome.get("programs", ())}
    text = f"{len(used)} program{'s' * (len(used) != 1)} for {len(ended)} runs"
    if compiled is not None:
        text += f", {compiled} compiled by this command"
    return text if used else ""
