"""Finished stages of a chain: refused where they are not those that the recipe describes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from etils import epath

from ranges import ConfigError
from train.config.run import RunConfig
from train.runtime import resume

# Settings of the reports, the checkpoints and the devices of a run, which leave its weights alone.
FREE_TO_CHANGE = (
    "plugins", "mesh.", "evaluate.", "evals.", "checkpoint.", "log_every", "rl.eval_prompts",
    "rewards.on_error", "rewards.max_errors",
)  # fmt: skip
MOST_SHOWN = 10  # settings that differ


def check(
    runs: Mapping[str, RunConfig], workdir: epath.Path, allow_data_change: bool = False
) -> set[str]:
    """The names of the finished stages.

    Args:
      runs: {stage: its settings}, in order. allow_data_change: whether data may be elsewhere.

    Raises:
      ConfigError: a stage was finished with other settings, or was begun from one that is not
        finished.
    """
    done = {name for name in runs if (workdir / name / "DONE").exists()}
    begun = [name for name in runs if (workdir / name / "config.json").exists()]
    for name in runs:
        changes = _changes(workdir / name, runs[name], allow_data_change) if name in done else {}
        if changes:
            stale = [other for other in begun if name in _origins(runs, other)]
            raise ConfigError(_message(workdir, name, changes, stale))
        missing = sorted(_origins(runs, name) - done)
        if name in begun and missing:
            raise ConfigError(
                f"{workdir / name} started from {', '.join(missing)}, to be trained again now. "
                f"Delete what it has learned: rm -r {shlex.quote(str(workdir / name))}"
            )
    return done


def _origins(runs: Mapping[str, RunConfig], name: str) -> set[str]:
    """The earlier stages from which a stage starts, and those from which they do."""
    nearest = {PurePath(path).name for path in runs[name].init_from.values()} & runs.keys()
    return nearest.union(*(_origins(runs, origin) for origin in nearest))


def _changes(
    run: epath.Path, config: RunConfig, allow_data_change: bool
) -> dict[str, tuple[Any, Any]]:
    """{setting: (before, now)} of the settings on which the weights of a finished run depend."""
    changes = {}
    saved = (run / "config.json").read_text()
    for key, values in resume.changes(saved, resume.config_json(config)).items():
        if key.startswith(("init_from.", "tokenizer.path")):  # workdirs, which may have moved
            values = (PurePath(values[0] or "").name, PurePath(values[1] or "").name)
        moved = allow_data_change and resume.LOCATIONS.fullmatch(key) is not None
        if values[0] != values[1] and not key.startswith(FREE_TO_CHANGE) and not moved:
            changes[key] = values
    return changes


def _message(
    workdir: epath.Path, name: str, changes: Mapping[str, tuple[Any, Any]], stale: list[str]
) -> str:
    """The error about a finished stage whose settings have changed.

    Args:
      stale: the stages that started from it.
    """

    def without(first: str) -> str:
        paths = ",".join([first, *stale])
        paths = f"{{{paths}}}" if stale else paths  # one word, which no terminal breaks
        return f"`rm -r {shlex.quote(str(workdir))}/{paths}` and the same command"

    texts = [f"{key}: {old!r:.80} -> {new!r:.80}" for key, (old, new) in changes.items()]
    if texts[MOST_SHOWN:]:
        texts[MOST_SHOWN:] = [f"and {len(texts) - MOST_SHOWN} more"]
    ways = [f"train {', '.join([name, *stale])} again: {without(name)}"]
    if changes.keys() == {"steps"} and changes["steps"][0] < changes["steps"][1]:
        ways.insert(0, f"train {name} further: {without(f'{name}/DONE')}")
    if all(resume.LOCATIONS.fullmatch(key) for key in changes):
        ways.insert(0, "say that the data is the same in another place: --allow_data_change")
    return (
        f"{workdir / name} is done, and was trained with another config "
        f"({'; '.join(texts)}). Type the old settings, or a new --workdir; or {'; or '.join(ways)}"
    )
