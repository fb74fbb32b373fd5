"""Resuming: the files of a run beside its checkpoints, and the check that it is the run that was
saved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from etils import epath
from flax.traverse_util import flatten_dict

from data.atomic import write_atomically
from ranges import ConfigError
from train.assembly.run import Run
from train.checkpoints import saved_models
from train.config.model import read_saved
from train.config.names import RENAMED
from train.config.run import RunConfig, run_class
from train.config.saved import NOT_SETTINGS
from train.guards.settings import ROWS, Difference, Kind, kind_of, refusal
from train.optimizer import make_schedule
from train.runtime import outputs, strict_json
from train.runtime.outputs import write_later


class Change(TypedDict):
    """A setting, or the rows of data, that a resumed run has changed at a step."""

    step: int
    setting: str
    before: Any
    now: Any


def config_json(config: RunConfig) -> str:
    """The settings of a run as JSON."""
    return strict_json.dumps(dataclasses.asdict(config), indent=2)


def save_run_files(run: Run, workdir: epath.Path, lineage: Sequence[Change]) -> None:
    """Writes the files beside the checkpoints: tokenizer, row caches, architectures, settings.
    Training needs none of them, so what cannot be written is written later."""
    if not (workdir / "tokenizer" / "tokenizer.json").exists():
        folder = workdir / "tokenizer"
        write_later(folder, lambda: _save_tokenizer(run, folder), "the model cannot be opened")
    for save in run.ctx.save_rows:
        try:
            save()
        except OSError as error:
            outputs.failed("rows", error, "rows are computed again at the next start")
    models = {role: run.ctx.models[role] for role in run.objective.trainable}
    settings = dataclasses.asdict(run.ctx.config) | ({"lineage": lineage} if lineage else {})
    text = strict_json.dumps(settings, indent=2) + "\n"
    for name, write in {
        "models.json": lambda: saved_models.save_models(workdir, models),
        "parts.json": lambda: saved_models.save_parts(workdir, run.parts, run.origins),
        "config.json": lambda: write_atomically(workdir / "config.json", text),
    }.items():
        write_later(workdir / name, write, "the model cannot be opened")


def _save_tokenizer(run: Run, folder: epath.Path) -> None:
    """Writes the files of the tokenizer, all or none.

    Raises:
      OSError: they cannot be written.
    """
    try:
        run.ctx.tokenizer.save(folder)
    except OSError:
        if folder.is_dir():
            folder.rmtree()
        raise


def lineage(meta: Mapping[str, Any], differences: Iterable[Difference], step: int) -> list[Change]:
    """The changes of a run up to `step`: those of its checkpoint, and the present ones that had to
    be named."""
    changes = list(meta.get("lineage", ()))
    if earlier := meta.get("earlier"):  # only steps could change, when that run was saved
        numbers = [entry["steps"] for entry in earlier] + [json.loads(meta["config"])["steps"]]
        changes = [
            Change(step=entry["until"], setting="steps", before=entry["steps"], now=now)
            for entry, now in zip(earlier, numbers[1:])
        ]
    return changes + [
        Change(step=step, setting=d.setting, before=d.before, now=d.now)
        for d in differences
        if d.kind is Kind.NAMED
    ]


def change_of_steps(config: RunConfig, steps: int, step: int) -> str:
    """A message about a run that was planned with `steps`, and continues with another number at
    `step`."""
    before, now = (
        float(make_schedule(config.optimizer, number)(step)) for number in (steps, config.steps)
    )
    text = f"steps: {steps} -> {config.steps}"
    if before != now:
        text += (
            f"; the {config.optimizer.schedule} schedule follows: learning rate {before:.3g} -> "
            f"{now:.3g} at step {step}"
        )
    return text


def changed_lines(config: RunConfig, differences: Iterable[Difference], step: int) -> Iterator[str]:
    """Messages about the changes of a run that continues at `step`."""
    for difference in differences:
        name = difference.setting
        if name == "steps":
            yield change_of_steps(config, difference.before, step)
        elif name.endswith("optimizer.ema") and not difference.before:
            yield f"{difference}; the averages begin with the weights of step {step}"
        elif name.endswith("optimizer.ema") and not difference.now:
            yield f"{difference}; the averages of the weights are left behind"
        elif difference.rows:
            yield f"warning: {name} has changed rows since the checkpoint"
        else:
            yield str(difference)


def ways_on(workdir: epath.PathLike, run: Run, steps: str) -> list[str]:
    """The ways to go on from a run: with more steps, or from its weights in a new workdir."""
    role = run.objective.trainable[0]
    return [
        f"train it further: the same command with --allow_change=steps --config.steps={steps}",
        f"start a new run from its weights: --workdir=NEW --config.init_from.{role}={workdir}",
    ]


def changes(saved_text: str, config_text: str) -> dict[str, tuple[Any, Any]]:
    """{setting: (saved, now)} of the settings that differ.

    Args:
      saved_text: the settings that a run saved, as JSON. config_text: those of now.
    """
    texts = config_json(run_class()()), saved_text, config_text
    defaults, saved, settings = (flatten_dict(json.loads(text), sep=".") for text in texts)
    for name in NOT_SETTINGS:
        saved.pop(name, None)
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
    step: int,
    allow_change: Collection[str] = (),
) -> list[Difference]:
    """Refuses to resume a run that is not the one that was saved; returns what has changed.

    Args:
      meta: of the checkpoint, after `step` steps. config_text: the run's settings as JSON.
      allow_change: settings, and names of `ROWS`, that may change (train/guards/settings.py).

    Raises:
      ConfigError: the frozen models have changed (which would change every KL and score), or the
        tokenizer, or settings or rows that may not, or fewer steps are asked for than are saved.
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
    hashes = {name: (content.get(name, hash_), hash_) for name, hash_ in run.content.items()}
    hashes = {name: values for name, values in hashes.items() if values[0] != values[1]}
    if "tokenizer" in hashes:
        raise ConfigError(
            f"{workdir} was begun with another tokenizer ({content['tokenizer']}) than there is "
            f"now ({run.content['tokenizer']}): ids would mean other text. Restore "
            f"{workdir}/tokenizer, or use a new --workdir"
        )
    settings = changes(meta["config"], config_text)
    differences = [
        Difference(key, *values, kind_of(key, *values, rows_known=bool(content)))
        for key, values in settings.items()
    ]
    rows = [
        # Nothing is trained on the rows of `config.evals`.
        Difference(name, *values, Kind.NAMED if name in ROWS else Kind.FREE, rows=True)
        for name, values in hashes.items()
    ]
    if "steps" in settings and settings["steps"][1] < step:
        raise ConfigError(
            f"{workdir} has trained {step} steps, more than steps={settings['steps'][1]}, and what "
            f"it has learned cannot be taken back. Type --config.steps={step} or more, or a new "
            "--workdir"
        )
    if text := refusal(workdir, differences + rows, allow_change, run.objective.trainable[0]):
        raise ConfigError(text)
    return differences + rows
