"""Forks: a new run that continues from a step of another one, with some settings changed.

A fork takes everything from the checkpoint of its parent: weights, moments, the place in the data,
a half-used rollout. With nothing changed it is the parent's continuation, bit for bit. The parent
is only read, and the fork begins with a checkpoint of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from data.ramp import Ramp
from ranges import ConfigError
from train.assembly import averages
from train.assembly.run import Run
from train.checkpoints import checkpointer, saved_models, verification
from train.config.run import RunConfig
from train.config.run_names import check_step, split_name
from train.guards.settings import SWITCHES, Difference, Kind, kind_of
from train.objectives import registry
from train.objectives.base import Objective
from train.runtime import resume
from train.step import TrainState

# {setting, or group: why a fork cannot change it}; the other ones it can, if the arrays of the
# checkpoint fit.
FIXED = {
    "stage": "another stage trains other weights",
    "model": "the weights and their moments would have other shapes or another meaning",
    "tokenizer": "ids would mean other text",
    "optimizer.name": "the saved moments are another optimizer's",
    "optimizer.state_dtype": "the saved moments have another dtype",
    "value_optimizer.name": "the saved moments are another optimizer's",
    "value_optimizer.state_dtype": "the saved moments have another dtype",
    "loss.pool": "the reward model was trained to be read otherwise",
    "rl.prompt_length": "the saved rollout has other shapes",
    "rl.response_length": "the saved rollout has other shapes",
    "rl.rollout_batch": "the saved rollout has other shapes",
    "ppo.shared_critic": "the critic would be another network",
    "grpo.group_size": "the saved rollout has other shapes",
    "lora": "other weights would be trained",
    "freeze": "other weights would be trained",
}
# Of stages with rollouts, whose saved rollout is divided into minibatches already.
FIXED_ROLLOUT = {
    "data.batch_size": "the saved rollout is divided into minibatches already",
    "rl.epochs": "the saved rollout is divided into minibatches already",
}
# Of stages that read conversations, whose rows are packed so that they can be cut.
FIXED_CHAT = {"data.length_ramp": "the rows would hold other conversations than those it has read"}


class Fork(NamedTuple):
    """The origin of a fork: a checkpoint of another run."""

    parent: str
    step: int

    @property
    def checkpoint(self) -> epath.Path:
        return (epath.Path(self.parent) / "checkpoints" / str(self.step)).resolve()

    def __str__(self) -> str:
        return f"{self.parent}@{self.step}"


def parse(name: str, workdir: epath.PathLike) -> Fork:
    """The fork that --fork=NAME asks for.

    Raises:
      ConfigError: NAME is no RUN@STEP, the run has no such checkpoint, or it is `workdir` itself.
    """
    parent, step, of_averages = split_name(name)
    role = next(iter(saved_models.read_models(parent)))
    if of_averages:
        raise ConfigError(
            f"--fork={name}: a fork takes everything of a run; to start from its averaged weights, "
            f"type --config.init_from.{role}={name}"
        )
    if step is None:
        newest = max(verification.steps(parent), default="STEP")
        raise ConfigError(f"--fork={name} names no step; type --fork={parent}@{newest}")
    check_step(parent, step, verification.steps(parent))
    if epath.Path(parent).resolve() == epath.Path(workdir).resolve():
        raise ConfigError(f"--fork={name} is --workdir itself; give the fork one of its own")
    return Fork(parent if "://" in parent else os.path.abspath(parent), step)


def with_tokenizer(config: RunConfig, fork: Fork, workdir: epath.Path) -> RunConfig:
    """The settings with the parent's tokenizer, until the fork has a copy of it."""
    if (workdir / "tokenizer" / "tokenizer.json").exists():
        return config
    tokenizer = dataclasses.replace(config.tokenizer, path=fork.parent)
    return dataclasses.replace(config, tokenizer=tokenizer)


def check_settings(fork: Fork, config: RunConfig) -> None:
    """Refuses settings that a fork cannot have, before any data is read.

    Raises:
      ConfigError: the checkpoint is damaged, or its arrays do not allow a change.
    """
    try:
        meta = verification.read_meta(fork.checkpoint)
    except verification.Damaged as error:
        raise _damaged(fork, error) from None
    if config.budget:  # it says the number of steps when the data is known
        config = dataclasses.replace(config, steps=json.loads(meta["config"])["steps"])
    _changed_settings(fork, meta, registry.find(config), resume.config_json(config))


def _damaged(fork: Fork, error: verification.Damaged) -> ConfigError:
    return ConfigError(f"--fork={fork}: the checkpoint is damaged ({error})")


def restore(
    fork: Fork, run: Run, config_text: str, workdir: epath.PathLike
) -> tuple[tuple[int, TrainState, dict[str, Any]], list[Difference]]:
    """((step, state, meta) of the parent's checkpoint, the changes of the fork). All processes call
    it. The lineage in `meta` ends with the fork.

    Args:
      config_text: the fork's settings as JSON.

    Raises:
      ConfigError: the checkpoint is damaged, or its arrays do not allow a change.
    """
    try:
        meta = verification.read_meta(fork.checkpoint)
        saved_models.check_files(fork.parent, meta.get("files", {}))
        changed = changes(fork, meta, run, config_text)
        ema = {
            role: x
            for role, x in dict(run.abstract.ema).items()
            if f"{role}{saved_models.AVERAGES}" in meta.get("arrays", {})
        }
        abstract = run.abstract._replace(ema=ema or ())
        state = checkpointer.restore_state(fork.checkpoint, abstract, meta)
        _check_place(fork, meta, run, state.source)
    except verification.Damaged as error:
        raise _damaged(fork, error) from None
    origin = resume.Change(step=fork.step, setting="fork", before=fork.parent, now=str(workdir))
    lineage = [*resume.lineage(meta, [], fork.step), origin]
    state = averages.begun(state, run.abstract.ema)
    meta.pop("earlier", None)  # an older version's form of the lineage
    return (fork.step, state, meta | {"lineage": lineage}), changed


def changes(fork: Fork, meta: Mapping[str, Any], run: Run, config_text: str) -> list[Difference]:
    """The settings, frozen models and rows in which a fork differs from its parent.

    Args:
      meta: of the parent's checkpoint. config_text: the fork's settings as JSON.

    Raises:
      ConfigError: a change that the saved arrays do not allow.
    """
    differences = _changed_settings(fork, meta, run.objective, config_text)
    for role, origin in meta["frozen"].items():
        now = run.origins.get(role, {}).get("fingerprint", "")
        if now != origin["fingerprint"]:
            key = f"init_from.{role}"
            differences.append(Difference(key, origin["fingerprint"], now, Kind.NAMED))
    for name, now in run.content.items():
        before = meta.get("content", {}).get(name, now)
        if before != now:
            differences.append(Difference(name, before, now, Kind.NAMED, rows=True))
    return differences


def _changed_settings(
    fork: Fork, meta: Mapping[str, Any], objective: Objective, config_text: str
) -> list[Difference]:
    """The settings of `changes`."""
    settings = resume.changes(meta["config"], config_text)
    if "steps" in settings and settings["steps"][1] < fork.step:
        raise ConfigError(
            f"steps={settings['steps'][1]} is before the fork, at step {fork.step}; type "
            f"--config.steps={fork.step} or more"
        )
    fixed = FIXED | (FIXED_ROLLOUT if objective.rollouts else {})
    fixed |= FIXED_CHAT if objective.schema == "chat" else {}
    differences, refused = list[Difference](), list[str]()
    for key, values in settings.items():
        if (key, values[1]) == ("tokenizer.path", fork.parent):  # by `with_tokenizer`
            continue
        difference = Difference(key, *values, kind_of(key, *values, rows_known=True))
        if difference.kind is not Kind.FREE:
            difference = difference._replace(kind=Kind.NAMED)
        differences.append(difference)
        if reason := _obstacle(difference, fixed):
            refused.append(f"{difference} ({reason})")
    if refused:
        raise ConfigError(
            "\n".join([f"a fork of {fork} cannot change:", *refused])
            + "\nType the old values, or start a new run from its weights: "
            f"--config.init_from.{objective.trainable[0]}={fork.parent}"
        )
    return differences


def _check_place(fork: Fork, meta: Mapping[str, Any], run: Run, source: Mapping[str, Any]) -> None:
    """Refuses a fork that would read other rows next than those after the parent's last batch.

    Args:
      meta: of the parent's checkpoint. source: the state of its source.

    Raises:
      ConfigError: by its ramp, it has read another number of rows.
    """
    if run.objective.rollouts:
        return
    step = int(source["step"])
    before = Ramp.of(json.loads(meta["config"])["data"])
    now = Ramp.of(vars(run.ctx.config.data))
    if before.rows_before(step) != now.rows_before(step):
        raise ConfigError(
            f"a fork of {fork} has read {before.rows_before(step)} rows in {step} batches, and "
            f"with its data.batch_size and data.batch_ramp it would have read "
            f"{now.rows_before(step)}: rows would be repeated or left out. Add "
            f'--config.data.batch_ramp="{before.batch_ramp(step)}"'
        )


def _obstacle(difference: Difference, fixed: Mapping[str, str]) -> str:
    """Why a fork cannot make a change, or ""."""
    key = difference.setting
    if difference.kind is Kind.FREE or key == "model.dtype":
        return ""
    switched = bool(difference.before) != bool(difference.now)
    if key in SWITCHES and switched and not key.endswith(".ema"):
        return "it would add a part to the saved state, or take one away"
    parts = key.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((fixed[name] for name in names if name in fixed), "")


def check_resumed(fork: Fork, meta: Mapping[str, Any], workdir: epath.PathLike) -> None:
    """Refuses to resume a workdir as a fork that it is not.

    Args:
      meta: of a checkpoint of the workdir.

    Raises:
      ConfigError: it is another run.
    """
    origins = [c for c in meta.get("lineage", ()) if c["setting"] == "fork"]
    if not any(c["before"] == fork.parent and c["step"] == fork.step for c in origins):
        was = f"a fork of {origins[-1]['before']}@{origins[-1]['step']}" if origins else "no fork"
        raise ConfigError(
            f"{workdir} holds a run that is {was}; give --fork={fork} a new --workdir"
        )
