"""Going back: a run whose updates are not applied continues from an earlier checkpoint, past the
data since.

Every decision is a function of the steps and of the checkpoints, so a run that is killed after it
went back, and before it has saved again, takes the same steps again and goes back as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax

from interpreter import python
from model import sharding
from train.assembly.run import Run, init_state
from train.checkpoints.checkpointer import Checkpointer
from train.checkpoints.verification import Damaged
from train.guards import faults
from train.guards.faults import Fault, Faults
from train.guards.origins import BatchOrigin
from train.runtime.metrics import Metrics
from train.step import TrainState
from train.terminal.progress import Progress


class WentBack(TypedDict):
    """An entry of the list `went_back` in a checkpoint's meta, the oldest first.

    Attributes:
      at: the step of the last of the faults. to: the step of the checkpoint, 0 for the start.
      in_a_row: the number of faults. cause: of the last. past: the data that was left out.
    """

    at: int
    to: int
    in_a_row: int
    cause: str
    past: str


class Guard:
    """The updates of a run that are not applied, and its way back from them.

    Args:
      meta: of the checkpoint that the run continues; empty at step 0.
    """

    def __init__(self, run: Run, meta: Mapping[str, Any], metrics: Metrics, progress: Progress):
        self._run, self._metrics, self._progress = run, metrics, progress
        self._config, self._source = run.ctx.config.guard, run.stage.source
        self._most = self._config.go_back
        self._went_back: list[WentBack] = list(meta.get("went_back", []))
        self._faults = Faults(self._config.in_a_row, meta.get("guard", {}).get("in_a_row", 0))

    @property
    def in_a_row(self) -> int:
        """The number of faults directly before the next step, of the steps that were looked at."""
        return self._faults.in_a_row

    def add(self, fault: jax.Array, step: int, s: dict[str, Any]) -> bool:
        """Adds a step, after which the source is in state `s`; returns whether it is time for
        `look`, so that few steps wait for it."""
        self._faults.add(fault, step, self._source.place(s))
        return len(self._faults) >= faults.MOST_PENDING

    def look(self) -> bool:
        """Names the updates since the last call that were not applied, with their rows; waits for
        the devices. Returns whether they are so many that the run has to go back."""
        for fault in self._faults.look():
            origins = self._source.origins(fault.place)
            self._metrics.note(fault.step, "not_applied", faults.record(fault, origins))
            self._progress.say(*faults.message(fault, origins))
        return self._faults.last is not None

    def notes(self, state: TrainState, due: bool) -> dict[str, Any]:
        """The entries of a checkpoint's meta. `due`: whether an uninterrupted run makes it too."""
        self.look()
        guard: dict[str, Any] = {"due": due, "in_a_row": self._faults.in_a_row}
        if self._config.spike:
            guard["losses"] = faults.saved_losses(state.losses)
        return {"guard": guard} | ({"went_back": self._went_back} if self._went_back else {})

    def go_back(self, checkpoints: Checkpointer) -> tuple[int, TrainState, Mapping[str, Any]]:
        """(step, state, meta) of the last good checkpoint, with the source past the data since.

        Raises:
          FloatingPointError: the run has gone back `guard.go_back` times.
          DataError: there is too little data to leave some out.
        """
        fault, in_a_row = self._faults.last, self._faults.in_a_row
        assert fault is not None
        checkpoints.settle()
        step = target(checkpoints, self._went_back, fault.step - in_a_row + 1)
        if len(self._went_back) >= self._most:
            origins = self._source.origins(fault.place)
            raise exhausted(fault, in_a_row, self._most, origins, step)
        state, meta = None, dict[str, Any]()
        if step:
            restored = checkpoints.restore_newest(self._run.abstract, below=step + 1)
            if restored:
                step, state, meta = restored
        if state is None:
            state = init_state(self._run)
        steps = self._run.ctx.config.steps - step
        source, past = self._source.past(state.source, fault.place, steps)
        entry = WentBack(at=fault.step, to=step, in_a_row=in_a_row, cause=fault.cause, past=past)
        self._went_back.append(entry)
        self._faults = Faults(self._config.in_a_row)
        self._metrics.go_back(step)
        for dropped in (old for old in self._went_back if old["to"] >= step):
            # Under the first step that follows: a run that is killed before it drops the record.
            self._metrics.note(step + 1, "went_back", dict(dropped))
        self._progress.done = step
        self._progress.say(message(entry, len(self._went_back), self._most))
        return step, with_losses(self._run, state._replace(source=source), meta), meta


def with_losses(run: Run, state: TrainState, meta: Mapping[str, Any]) -> TrainState:
    """A restored or new state, with the losses by which spikes are measured.

    Args:
      meta: of its checkpoint; empty at step 0.
    """
    if not run.ctx.config.guard.spike:
        return state
    losses = faults.restored_losses(meta.get("guard", {}).get("losses", []))
    return state._replace(losses=jax.device_put(losses, sharding.replicated(run.ctx.mesh)))


def is_good(checkpoints: Checkpointer, step: int) -> bool:
    """Whether a run may go back to a checkpoint: it was due, and its last update was applied. Those
    of a run that was stopped are not where the uninterrupted run has one."""
    try:
        guard = checkpoints.meta(step).get("guard", {})  # none in checkpoints of old runs
    except Damaged:
        return False
    return guard.get("due", True) and not guard.get("in_a_row", 0)


def target(checkpoints: Checkpointer, went_back: Sequence[WentBack], first: int) -> int:
    """The step of the checkpoint to go back to; 0, the start, if there is no checkpoint.

    It is the newest good one. If not one update was applied since the run last went back, that
    checkpoint is at fault itself, and an older one is taken while there is one.

    Args:
      first: the first of the steps in a row whose updates were not applied.
    """
    steps = sorted(checkpoints.steps(), reverse=True)
    good = [step for step in steps if is_good(checkpoints, step)] or steps
    if went_back and went_back[-1]["to"] == first - 1:
        good = [step for step in good if step < first - 1] or good[-1:]
    return good[0] if good else 0


def message(entry: WentBack, count: int, most: int) -> str:
    """The line of the terminal; `count`: the number of times that the run went back, this one
    included."""
    start = f"step {entry['to']}" if entry["to"] else "the start"
    row = "updates in a row" if entry["in_a_row"] > 1 else "update"
    return (
        f"step {entry['at']}: {entry['in_a_row']} {row} not applied ({entry['cause']}); "
        f"back to {start}, past {entry['past']}; {count} of {most} times"
    )


def exhausted(
    fault: Fault, in_a_row: int, most: int, origins: Sequence[BatchOrigin], last_good: int
) -> FloatingPointError:
    """The error of a run that does not go back once more.

    Args:
      most: `guard.go_back`. origins: of the fault's batch. last_good: the step of the checkpoint
        that remains, or 0.
    """
    times = f", and the run went back {most} times before" if most else ""
    saved = f"The checkpoint of step {last_good} remains. " if last_good else ""
    lower = "--config.optimizer.peak_lr=LOWER"
    lower += " --allow_change=optimizer.peak_lr" * bool(last_good)
    row = "updates in a row" if in_a_row > 1 else "update"
    return FloatingPointError(
        f"{in_a_row} {row} up to step {fault.step} could not be applied "
        f"({fault.cause}){times}. {saved}Lower the learning rate: {lower}; or look at the data, "
        f"which metrics.jsonl names: {python()} -m data.inspect --step={origins[0].number} with "
        f"the same --config; or go back more often: --config.guard.go_back={most + 3}"
    )
