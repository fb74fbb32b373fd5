"""Going back: a run whose updates are not applied continues from an earlier checkpoint, past the
data since.

Every decision is a function of the steps and of the checkpoints, so a run that is killed after it
went back, and before it has saved again, takes the same steps again and goes back as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from interpreter import python
from train.assemble import Run, init_state
from train.checkpoints.checkpointer import Checkpointer
from train.guards.faults import Fault
from train.guards.origins import BatchOrigin
from train.step import TrainState


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


def is_good(meta: Mapping[str, Any]) -> bool:
    """Whether a run may go back to a checkpoint: it was due, and its last update was applied. Those
    of a run that was stopped are not where the uninterrupted run has one."""
    guard = meta.get("guard", {})  # none in checkpoints of old runs
    return guard.get("due", True) and not guard.get("in_a_row", 0)


def target(checkpoints: Checkpointer, went_back: Sequence[WentBack], first: int) -> int:
    """The step of the checkpoint to go back to; 0, the start, if there is no checkpoint.

    It is the newest good one. If not one update was applied since the run last went back, that
    checkpoint is at fault itself, and an older one is taken while there is one.

    Args:
      first: the first of the steps in a row whose updates were not applied.
    """
    steps = sorted(checkpoints.steps(), reverse=True)
    good = [step for step in steps if is_good(checkpoints.meta(step))] or steps
    if went_back and went_back[-1]["to"] == first - 1:
        good = [step for step in good if step < first - 1] or good[-1:]
    return good[0] if good else 0


def restore(checkpoints: Checkpointer, step: int, run: Run) -> tuple[dict[str, Any], TrainState]:
    """(meta, state) of a checkpoint, after which the later ones are removed; a new state at step
    0."""
    checkpoints.remove_after(step)
    if not step:
        return {}, init_state(run)
    return checkpoints.meta(step), checkpoints.restore(step, run.abstract)


def message(entry: WentBack, count: int, most: int) -> str:
    """The line of the terminal; `count`: the number of times that the run went back, this one
    included."""
    start = f"step {entry['to']}" if entry["to"] else "the start"
    return (
        f"step {entry['at']}: {entry['in_a_row']} updates in a row not applied ({entry['cause']}); "
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
    return FloatingPointError(
        f"{in_a_row} updates in a row up to step {fault.step} were not applied "
        f"({fault.cause}){times}. {saved}Lower the learning rate, --config.optimizer.peak_lr, in a "
        "new --workdir; look at the data, which metrics.jsonl names: "
        f"{python()} -m data.inspect --step={origins[0].number} with the same --config; or go back "
        f"more often: --config.guard.go_back={most + 3}"
    )
