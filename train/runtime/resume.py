"""Resuming: the files of a run beside its checkpoints, and the check that it is the run that was
saved."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from etils import epath
from flax.traverse_util import flatten_dict

from data.atomic import write_atomically
from ranges import ConfigError
from train.assemble import Run
from train.checkpoints import saved_models
from train.config.model import read_saved
from train.config.names import RENAMED
from train.config.run import RunConfig, run_class
from train.optimizer import make_schedule
from train.runtime import outputs, strict_json

# Settings that a resumed run may change, as they alter neither the weights nor the data so far.
FREE_TO_CHANGE = ("steps", "plugins", "mesh.", "evaluate.", "evals.", "checkpoint.", "guard.",
                  "log_every", "init_from.", "tokenizer.", "rewards.on_error",
                  "rewards.max_errors")  # fmt: skip
# Settings with the location of data, which may change as long as its rows do not.
LOCATIONS = re.compile(
    r"(data|pretrain_data)\.((mixture|decontaminate)\.[^.]+\.source|source|heldout_source|tfds_dir)"
)


class Earlier(TypedDict):
    """A number of steps that a run was planned with, and the step at which that changed."""

    steps: int
    until: int


def config_json(config: RunConfig) -> str:
    """The settings of a run as JSON."""
    return strict_json.dumps(dataclasses.asdict(config), indent=2)


def save_run_files(run: Run, workdir: epath.Path, earlier: Sequence[Earlier]) -> None:
    """Writes the files beside the checkpoints: tokenizer, row caches, architectures, settings."""
    if not (workdir / "tokenizer" / "tokenizer.json").exists():
        run.ctx.tokenizer.save(workdir / "tokenizer")
    for save in run.ctx.save_rows:
        try:
            save()
        except OSError as error:
            outputs.failed("rows", error, "rows are computed again at the next start")
    saved_models.save_models(workdir, {r: run.ctx.models[r] for r in run.objective.trainable})
    saved_models.save_parts(workdir, run.parts, run.origins)
    settings = dataclasses.asdict(run.ctx.config) | ({"earlier": earlier} if earlier else {})
    write_atomically(workdir / "config.json", strict_json.dumps(settings, indent=2) + "\n")


def earlier_steps(
    workdir: epath.PathLike, meta: Mapping[str, Any], config: RunConfig, step: int
) -> list[Earlier]:
    """The numbers of steps that the run saved at `step` was planned with before `config.steps`.

    Raises:
      ConfigError: more steps are saved.
    """
    steps, earlier = json.loads(meta["config"])["steps"], meta.get("earlier", [])
    if config.steps < step:
        raise ConfigError(
            f"{workdir} has trained {step} steps, more than steps={config.steps}, and what it has "
            f"learned cannot be taken back. Type --config.steps={step} or more, or a new --workdir"
        )
    return [*earlier, Earlier(steps=steps, until=step)] if steps != config.steps else earlier


def change_of_steps(config: RunConfig, earlier: Earlier) -> str:
    """A message about a run that continues with another number of steps."""
    before, now = (
        float(make_schedule(config.optimizer, steps)(earlier["until"]))
        for steps in (earlier["steps"], config.steps)
    )
    text = f"steps: {earlier['steps']} -> {config.steps}"
    if before != now:
        text += (
            f"; the {config.optimizer.schedule} schedule follows: learning rate {before:.3g} -> "
            f"{now:.3g} at step {earlier['until']}"
        )
    return text


def ways_on(workdir: epath.PathLike, run: Run, steps: str) -> list[str]:
    """The ways to go on from a run: with more steps, or from its weights in a new workdir."""
    role = run.objective.trainable[0]
    return [
        f"train it further: the same command with --config.steps={steps}",
        f"start a new run from its weights: --workdir=NEW --config.init_from.{role}={workdir}",
    ]


def changes(saved_text: str, config_text: str) -> dict[str, tuple[Any, Any]]:
    """{setting: (saved, now)} of the settings that differ.

    Args:
      saved_text: the settings that a run saved, as JSON. config_text: those of now.
    """
    texts = config_json(run_class()()), saved_text, config_text
    defaults, saved, settings = (flatten_dict(json.loads(text), sep=".") for text in texts)
    saved.pop("earlier", None)  # of config.json; no setting
    saved = {RENAMED.get(key, key): value for key, value in read_saved(saved).items()}
    # A setting that did not exist yet had the effect of its default.
    saved = {key: defaults[key] for key in defaults.keys() & settings.keys()} | saved
    return {
        key: (saved.get(key), settings.get(key))
        for key in sorted(saved.keys() | settings.keys())
        if saved.get(key) != settings.get(key)
    }


def check_resume(
    workdir: epath.PathLike,
    meta: Mapping[str, Any],
    run: Run,
    config_text: str,
    allow_data_change: bool = False,
) -> list[str]:
    """Refuses to resume a run that is not the one that was saved; returns the names of data whose
    rows have changed. Those of `config.evals` may always change: nothing is trained on them.

    Args:
      meta: of the checkpoint. config_text: the run's settings as JSON.

    Raises:
      ConfigError: the frozen models have changed (which would change every KL and score), or the
        settings, the tokenizer or, unless `allow_data_change`, the rows.
    """
    origins = run.origins
    for role, origin in meta["frozen"].items():
        if origins.get(role, {}).get("fingerprint") != origin["fingerprint"]:
            raise ConfigError(
                f"{workdir} was trained with the {role} of {origin['from']} "
                f"({origin['fingerprint']}), and init_from now gives another. Restore that one, "
                "or use a new --workdir"
            )
    content = meta.get("content", {})  # empty in old runs, whose data is identified by its location

    def free(key: str) -> bool:
        is_location = LOCATIONS.fullmatch(key) is not None
        return key.startswith(FREE_TO_CHANGE) or (is_location and bool(content))

    differences = [
        f"{key}: {before!r} -> {now!r}"
        for key, (before, now) in changes(meta["config"], config_text).items()
        if not free(key)
    ]
    if differences:
        role = run.objective.trainable[0]
        raise ConfigError(
            f"{workdir} was begun with another config ({'; '.join(differences)}). Resume it with "
            "the old settings, or start from its weights with the new ones: --workdir=NEW "
            f"--config.init_from.{role}={workdir}"
        )
    changed = [name for name, hash_ in run.content.items() if content.get(name, hash_) != hash_]
    if "tokenizer" in changed:
        raise ConfigError(
            f"{workdir} was begun with another tokenizer ({content['tokenizer']}) than there is "
            f"now ({run.content['tokenizer']}): ids would mean other text. Restore "
            f"{workdir}/tokenizer, or use a new --workdir"
        )
    decisive = [name for name in changed if not name.startswith("evals.")]
    if decisive and not allow_data_change:
        raise ConfigError(
            f"the rows of {' and '.join(decisive)} differ from those that {workdir} was begun "
            "with: files were changed or replaced, or are read in another way. Restore the old "
            "ones, use a new --workdir, or continue with the new rows: --allow_data_change"
        )
    return changed
