"""Finished stages of a chain: refused where they are not those that the recipe describes."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from etils import epath

from ranges import ConfigError
from train.assembly.budget import recorded_steps
from train.config.run import RunConfig
from train.config.run_names import split_step
from train.guards.settings import LOCATIONS, Difference, Kind, kind_of
from train.runtime import resume
from train.terminal import saved

MOST_SHOWN = 10  # settings that differ


def check(
    runs: Mapping[str, RunConfig], workdir: epath.Path, allow_change: Collection[str] = ()
) -> set[str]:
    """The names of the finished stages.

    Args:
      runs: {stage: its settings}, in order. allow_change: settings that may differ, of which `data`
        and its like say that the data is the same in another place.

    Raises:
      ConfigError: a stage was finished with other settings or has lost its checkpoints, or was
        begun from one that is not finished.
    """
    done = {name for name in runs if (workdir / name / "DONE").exists()}
    begun = [name for name in runs if (workdir / name / "config.json").exists()]
    origins = _origins(runs, workdir)
    for name in (name for name in runs if name in done):
        if not saved.committed_steps(workdir / name):
            again = [name, *(other for other in begun if name in origins[other])]
            raise ConfigError(
                f"{workdir / name} is done, and its checkpoints are gone. Restore "
                f"{workdir / name}/checkpoints; or train {', '.join(again)} again: "
                f"{_remove(workdir, again)} and the same command"
            )
        if changes := _changes(workdir / name, runs[name], allow_change):
            stale = [other for other in begun if name in origins[other]]
            raise ConfigError(_message(workdir, name, changes, stale))
    for name in begun:
        if missing := sorted(origins[name] - done):
            stale = [other for other in begun if origins[other] - done]
            raise ConfigError(
                f"{workdir / name} has started from {', '.join(missing)}, which is not done. "
                f"Type {_remove(workdir, stale)} and the same command"
            )
    return done


def _origins(runs: Mapping[str, RunConfig], workdir: epath.Path) -> dict[str, set[str]]:
    """{stage: the earlier stages from which it starts, and those from which they do}."""
    origins: dict[str, set[str]] = {}
    for name, config in runs.items():
        paths = {split_step(name)[0] for name in config.init_from.values()}
        nearest = {origin for origin in origins if str(workdir / origin) in paths}
        origins[name] = nearest.union(*(origins[origin] for origin in nearest))
    return origins


def _remove(workdir: epath.Path, names: list[str]) -> str:
    """The shell command that removes parts of a workdir, which are one word: no terminal breaks
    it."""
    paths = ",".join(names)
    return f"`rm -r {shlex.quote(str(workdir))}/{f'{{{paths}}}' if names[1:] else paths}`"


def _changes(
    run: epath.Path, config: RunConfig, allow_change: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    """{setting: (before, now)} of the settings on which the weights of a finished run depend."""
    changes = {}
    config = dataclasses.replace(config, steps=recorded_steps(config, run) or config.steps)
    saved = (run / "config.json").read_text()
    for key, values in resume.changes(saved, resume.config_json(config)).items():
        if key.startswith(("init_from.", "tokenizer.path")):  # workdirs, which may have moved
            values = (PurePath(values[0] or "").name, PurePath(values[1] or "").name)
            free = values[0] == values[1]
        else:
            before, now = values
            difference = Difference(key, before, now, kind_of(key, before, now))
            moved = LOCATIONS.fullmatch(key) is not None and difference.is_named(allow_change)
            free = moved or difference.kind is Kind.FREE
        if not free:
            changes[key] = values
    return changes


def _message(
    workdir: epath.Path, name: str, changes: Mapping[str, tuple[Any, Any]], stale: list[str]
) -> str:
    """The error about a finished stage whose settings have changed.

    Args:
      stale: the stages that started from it.
    """
    texts = [f"{key}: {old!r:.80} -> {new!r:.80}" for key, (old, new) in changes.items()]
    if texts[MOST_SHOWN:]:
        texts[MOST_SHOWN:] = [f"and {len(texts) - MOST_SHOWN} more"]
    again = [name, *stale]
    ways = [f"train {', '.join(again)} again: {_remove(workdir, again)} and the same command"]
    if changes.keys() == {"steps"} and changes["steps"][0] < changes["steps"][1]:
        further = _remove(workdir, [f"{name}/DONE", *stale])
        again_with = "the same command with --allow_change=steps"
        ways.insert(0, f"train {name} further: {further} and {again_with}")
    if all(LOCATIONS.fullmatch(key) for key in changes):
        groups = ",".join(dict.fromkeys(key.partition(".")[0] for key in changes))
        ways.insert(0, f"say that the data is the same in another place: --allow_change={groups}")
    return (
        f"{workdir / name} is done, and was trained with another config "
        f"({'; '.join(texts)}). Type the old settings, or a new --workdir; or {'; or '.join(ways)}"
    )
