"""Checkpoints of a run: saved while it trains, and verified when it resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ranges import ConfigError
from train.checkpoints import (
    chunks,
    fingerprints,
    retention,
    saved_models,
    saved_steps,
    verification,
)
from train.checkpoints.agreement import decided, objection
from train.checkpoints.failures import Failures
from train.checkpoints.verification import Damaged
from train.config.run_names import split_step
from train.runtime import outputs, processes
from train.step import TrainState
from train.terminal.console import print_error
from train.terminal.progress import phase

REJECTED = "checkpoints_rejected"  # the folder of a workdir for damaged checkpoints


class Checkpointer:
    """Saves and restores one workdir's `TrainState`s. All processes call every method alike.

    Args:
      keep, keep_every, best_mode: the newest checkpoints that stay, the interval of steps of those
        that stay for good (0: none), and whether the best score is the `min` or the `max`.
      say: prints a line of the run.

    Attributes:
      failures: of the saves. refused: number of states that were not saved, since they were not
        finite.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        keep: int,
        keep_every: int = 0,
        best_mode: str = "min",
        say: Callable[[str], None] = print_error,
    ):
        self._workdir, self._say = epath.Path(workdir), say
        self._directory = self._workdir / "checkpoints"
        self.failures, self.refused = Failures(), 0
        outputs.make_folder(self._directory)
        self._unfinished = saved_steps.has_unfinished(workdir)
        _, self._scores = saved_steps.read(workdir) or ([], {})
        self._files: dict[str, str] | None = None
        self._saving: int | None = None  # the step of the save in flight
        self._error: Exception | None = None  # of its start
        self._policy = retention.policy(keep, keep_every, self._scores, best_mode)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Orbax's manager of the directory, without what unfinished saves have left there."""
        self._remove_unfinished()
        objection("")  # wait for process 0
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            lightweight_initialize=True,  # nothing in a step is read before it is verified
        )
        return ocp.CheckpointManager(self._directory.resolve(), options=options)

    def _remove_unfinished(self) -> None:
        """Removes what unfinished saves have left."""
        if jax.process_index() == 0:
            for path in self._directory.iterdir():
                if ocp.utils.TMP_DIR_SUFFIX in path.name:
                    _remove(path)

    def latest(self) -> int | None:
        """The newest committed step, after the save in flight."""
        self.settle()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The committed steps, after the save in flight."""
        self.settle()
        return list(self._manager.all_steps())

    def meta(self, step: int) -> dict[str, Any]:
        """The `meta` that was saved at `step`. Raises Damaged."""
        return verification.read_meta(self._path(step))

    def _path(self, step: int) -> epath.Path:
        return self._directory.resolve() / str(step)

    def save(
        self, state: TrainState, meta: dict, wait: bool = False, score: float | None = None
    ) -> None:
        """Starts to save, while training continues; a failure is retried at a later step (`due`).

        Args:
          meta: JSON, saved with the arrays. score: of the state, for the best checkpoint.
          wait: whether to return only when the state is saved, with retries.

        Raises:
          processes.Unsaved: too many saves in a row have failed.
          FloatingPointError: with `wait`, the state is not finite.
        """
        self.settle()
        step = int(state.step)
        items = items_of(state)
        arrays, not_finite = fingerprints.survey(items)
        not_finite = [name for name in not_finite if not name.startswith("source/")]
        if not_finite:
            self._refuse(step, not_finite[0], wait)
            return
        if self._files is None:
            self._files = saved_models.hashes(self._workdir)
        meta = verification.seal(meta | {"skipped": int(state.skipped)}, arrays, self._files)
        if score is not None:
            self._scores[step] = score
        while True:
            self._start(step, items, meta)
            if not wait:
                return
            self.settle()
            if not self.failures.in_a_row:
                return
            time.sleep(self.failures.seconds_left())

    def _refuse(self, step: int, name: str, wait: bool) -> None:
        """A state that is not finite: not saved, so that it replaces no good checkpoint."""
        self.refused += 1
        text = f"step {step} is not saved: {name} holds NaN or infinity"
        if wait:
            newest = self._manager.latest_step()
            raise FloatingPointError(
                f"{text}. {f'Step {newest} is the newest that is' if newest else 'No step is'} "
                "saved. Lower the learning rate, or inspect the data"
            )
        self._say(f"  warning: {text}")

    def _start(self, step: int, items: Mapping[str, Any], meta: dict[str, Any]) -> None:
        arguments = {
            name: ocp.args.StandardSave(tree, chunks.save_args(name, tree))
            for name, tree in items.items()
        }
        self._saving = step
        self._error = _error_of(
            lambda: self._manager.save(
                step,
                args=ocp.args.Composite(**arguments, meta=ocp.args.JsonSave(meta)),
                force=True,  # asking Orbax whether to save would advance the preemption's count
            )
        )

    def poll(self) -> None:
        """Notes the outcome of the save in flight if it has ended, without waiting for it.

        Raises:
          processes.Unsaved: too many saves in a row have failed.
        """
        if self._saving is not None and decided(
            self._error is not None or not self._manager.is_saving_in_progress()
        ):
            self.settle()

    def due(self, asked: bool) -> bool:
        """Whether to save now: if `asked`, or to retry; while saves fail, only after a pause."""
        if not self.failures.in_a_row:
            return asked
        return self._saving is None and decided(self.failures.seconds_left() <= 0)

    def settle(self) -> None:
        """Waits for the save in flight, and notes its outcome.

        Raises:
          processes.Unsaved: too many saves in a row have failed.
        """
        if self._saving is None:
            return
        error = _error_of(self._manager.wait_until_finished)
        error, step = self._error or error, self._saving
        self._saving = self._error = None
        if error is not None and processes.is_lost_peer(error):
            raise error
        reason = objection(verification.brief(error) if error else "")
        if reason:
            # Orbax lists a step when its save starts, and drops older ones. It also raises what is
            # left of an error at its next save, in one process alone, whose peers go on.
            _error_of(self._manager.close)
            self._manager = self._open()
            if not decided(step in self._manager.all_steps()):
                self._note_failure(step, reason)
                return
            self._say(
                f"  warning: step {step} is saved; old checkpoints were not removed ({reason})"
            )
        if self.failures.in_a_row:
            self._say(f"  step {step} is saved, after {self.failures.in_a_row} failed")
        self.failures.clear()
        self._write_record()

    def _note_failure(self, step: int, reason: str) -> None:
        self._scores.pop(step, None)
        newest = self._manager.latest_step()
        intact = f"step {newest} stays saved" if newest else "nothing is saved yet"
        self._say(f"  {self.failures.add(step, reason)}; {intact}")
        self.failures.check(intact)

    def _write_record(self) -> None:
        if jax.process_index() == 0:
            saved_steps.write(self._workdir, self._manager.all_steps(), self._scores)

    def restore_newest(
        self,
        abstract: TrainState,
        check: Callable[[int, dict[str, Any]], Any] = lambda step, meta: None,
        below: int | None = None,
    ) -> tuple[int, TrainState, dict[str, Any]] | None:
        """The newest valid checkpoint. Newer ones are named with the reason, and set aside.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          check: (step, its `meta`) is called before arrays are read; its errors end the search.
          below: if given, checkpoints of this step and later ones are not taken.

        Returns:
          (step, state, meta); None if the run has not saved any.

        Raises:
          ConfigError: none is valid, or all that the run has saved are gone.
        """
        self.settle()
        aside = dict[int, str]()
        for step in sorted(filter(None, self._manager.all_steps()), reverse=True):
            if below is not None and step >= below:
                aside[step] = f"the run goes back to a step before {below}"
                continue
            try:
                meta = self.meta(step)
                check(step, meta)
                with phase(f"restoring step {step}"):
                    state = self.restore(step, abstract, meta)
            except Damaged as error:
                aside[step] = str(error)
                continue
            self._set_aside(aside)
            recorded, _ = saved_steps.read(self._workdir) or ([], {})
            for gone in sorted(set(recorded) - aside.keys()):
                if gone > step:
                    self._say(f"  warning: checkpoint {gone} was saved, and is gone")
            if not meta.get("arrays"):
                self._say(
                    f"  checkpoint {step} carries no fingerprints: an earlier version saved it, "
                    "and damage to its values would go unnoticed"
                )
            self._write_record()
            return step, state, meta
        if aside:
            raise ConfigError(
                f"{verification.none_valid(self._workdir, aside)}. Restore one of them, or start "
                "again in a new --workdir"
            )
        if decided(bool(text := saved_steps.lost(self._workdir, self._unfinished))):
            raise ConfigError(
                f"{self._workdir} {text}, and its checkpoints are gone. Restore {self._directory}, "
                "or start again from step 0 in a new --workdir"
            )
        self._write_record()
        return None

    def restore(
        self, step: int, abstract: TrainState, meta: Mapping[str, Any] | None = None
    ) -> TrainState:
        """The state saved at `step`, with the shardings of `abstract`. Raises Damaged."""
        meta = self.meta(step) if meta is None else meta
        return restore_state(self._path(step), abstract, meta)

    def _set_aside(self, reasons: Mapping[int, str]) -> None:
        """Moves checkpoints to `REJECTED`, where they do not count and are never deleted."""
        if not reasons:
            return
        folder = self._workdir / REJECTED
        for step, reason in reasons.items():
            target, number = folder / str(step), 1
            while target.exists():
                target, number = folder / f"{step}-{number}", number + 1
            if jax.process_index() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # also creates the folder in an object store
                    (folder / f"{target.name}.txt").write_text(f"{reason}\n")
                (self._directory / str(step)).rename(target)
            self._say(f"  warning: checkpoint {step} is rejected: {reason}; moved to {target}")
            self._scores.pop(step, None)
        objection("")  # wait for process 0
        self._manager.reload()

    def close(self) -> None:
        try:
            self.settle()
        except processes.Unsaved as error:
            self._say(f"  warning: {error}")
        error = _error_of(self._manager.close)  # that of a failed save once more, if one has failed
        if error and not self.failures.total:
            self._say(f"  warning: the checkpoints are not closed ({verification.brief(error)})")
        if self.failures.total:
            self._remove_unfinished()  # a thread of a failed save may have written on after `_open`
            self._say(f"  warning: failed saves in this attempt: {self.failures.total}")
        if self.refused:
            self._say(f"  warning: states that were not saved, as not finite: {self.refused}")


def _error_of(function: Callable[[], Any]) -> Exception | None:
    """The error of a save, or None."""
    try:
        function()
    # Whatever a disk, a network, Orbax or TensorStore raises is a failed save, which is counted.
    except Exception as error:
        return error
    return None


def _remove(path: epath.Path) -> None:
    """Removes a directory of a failed save; what cannot be removed now is at the next start."""
    try:
        path.rmtree()
    except OSError as error:
        outputs.failed(str(path), error, "what a failed save has written stays for now")


def items_of(state: TrainState) -> dict[str, Any]:
    """{item: tree} of the checkpoint of a state."""
    averages = {f"{role}{saved_models.AVERAGES}": x for role, x in dict(state.ema).items()}
    rest = {"opt_state": state.opt_state, "source": state.source}
    return {**state.trainable, **averages, **rest}


def restore_state(
    checkpoint: epath.Path, abstract: TrainState, meta: Mapping[str, Any]
) -> TrainState:
    """The state of a checkpoint, with the shardings of `abstract`, and without `losses`.

    Raises:
      Damaged: it is not what was saved.
    """
    restored = verification.restore(checkpoint, meta, items_of(abstract))
    opt_state, source = restored.pop("opt_state"), restored.pop("source")
    ema = {role: restored.pop(f"{role}{saved_models.AVERAGES}") for role in dict(abstract.ema)}
    counts = int(checkpoint.name), meta.get("skipped", 0)
    step, skipped = (jnp.asarray(n, jnp.int32) for n in counts)
    return TrainState(step, restored, opt_state, source, skipped, ema=ema or ())


def restore_item(name: epath.PathLike, role: str, abstract: Any) -> Any:
    """The item of a role in a checkpoint.

    Args:
      name: RUN, for its newest valid checkpoint, or RUN@STEP; of averages RUN@ema or RUN@STEP@ema.

    Raises:
      ConfigError: there is none, or another file of the workdir is damaged.
    """
    workdir, step = split_step(name)
    item = saved_models.item_of(name, role)

    def read(checkpoint: epath.Path, meta: dict[str, Any]) -> Any:
        saved_models.check_files(workdir, meta.get("files", {}))
        return verification.restore(checkpoint, meta, {item: abstract})[item]

    with phase(f"loading {role} of {name}"):
        return verification.newest_valid(workdir, read, step)[1]
