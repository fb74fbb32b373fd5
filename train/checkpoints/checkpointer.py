"""Checkpoints of a run: saving, restoring, and the newest one of a workdir."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ranges import ConfigError
from train.checkpoints import saved_models
from train.runtime import outputs
from train.runtime.finite import require_finite
from train.step import TrainState
from train.terminal.progress import phase


class Checkpointer:
    """Saves and restores one workdir's `TrainState`s."""

    def __init__(self, workdir: epath.PathLike, keep: int):
        self._directory = epath.Path(workdir) / "checkpoints"
        outputs.make_folder(self._directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._directory.resolve(), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps that are saved."""
        return list(self._manager.all_steps())

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints after `step`, to which the run went back."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def save(self, state: TrainState, meta: dict) -> None:
        """Starts to save, while training continues. `meta` is JSON, saved with the arrays."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.trainable.items()}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardSave(state.opt_state),
                source=ocp.args.StandardSave(state.source),
                meta=ocp.args.JsonSave(meta | {"skipped": int(state.skipped)}),
            ),
            force=True,  # asking Orbax whether to save would advance the preemption service's count
        )

    def meta(self, step: int) -> dict:
        """The `meta` that was saved at `step`."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).meta

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state saved at `step`, with the shardings of `abstract`."""
        items = {name: ocp.args.StandardRestore(t) for name, t in abstract.trainable.items()}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **items,
                opt_state=ocp.args.StandardRestore(abstract.opt_state),
                source=ocp.args.StandardRestore(abstract.source),
            ),
        )
        trainable = {name: restored[name] for name in abstract.trainable}
        arrays = {**trainable, "opt_state": restored.opt_state}
        require_finite(arrays, f"{self._directory}/{step}", "weights or optimizer state")
        counts = (jnp.asarray(n, jnp.int32) for n in (step, self.meta(step).get("skipped", 0)))
        step_array, skipped = counts
        return TrainState(step_array, trainable, restored.opt_state, restored.source, skipped)

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def newest(workdir: epath.PathLike) -> tuple[ocp.CheckpointManager, int]:
    """(Orbax's manager of a workdir's checkpoints, the newest finished step).

    Raises:
      ConfigError: there is no checkpoint.
    """
    directory = epath.Path(workdir) / "checkpoints"
    manager = ocp.CheckpointManager(directory.resolve()) if directory.exists() else None
    step = manager.latest_step() if manager else None
    if manager is None or step is None:
        raise ConfigError(f"{workdir} holds no checkpoint; train that stage first")
    return manager, step


def restore_item(workdir: epath.PathLike, role: str, abstract: Any) -> Any:
    """The item of a role in a workdir's newest checkpoint."""
    item = saved_models.ITEM_OF.get(role, role)
    manager, step = newest(workdir)
    with phase(f"loading {role} of {workdir}"):
        restored = manager.restore(
            step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        )
    manager.close()
    check_finite(restored[item], workdir, step, item)
    return restored[item]


def check_finite(params: Any, workdir: epath.PathLike, step: int, item: str) -> None:
    """Refuses weights with a NaN or an infinity (train/runtime/finite.py)."""
    require_finite({item: params}, f"{workdir}, checkpoint {step},", "weights")
