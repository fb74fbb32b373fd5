"""Trials: a point of a sweep as a folder of runs, one a seed; the plan that the workdir keeps."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from etils import epath
from flax.traverse_util import flatten_dict

from data.atomic import write_atomically
from data.read import json_files
from ranges import ConfigError
from train.config.run import RunConfig, keys
from train.runtime import resume, strict_json

PLAN = "plan.json"
ALONE = "recipe"  # the name of a trial that changes nothing
MOST_NAME = 120  # characters of a folder's name
SECOND = ("value_optimizer.", "pretrain_data.")  # groups with the settings of another one

# {setting: text} -> the settings of a run
Build = Callable[[Mapping[str, str]], RunConfig]


class Run(NamedTuple):
    """One run of a sweep: a trial with a seed."""

    trial: str
    seed: int
    config: RunConfig
    workdir: epath.Path

    @property
    def name(self) -> str:
        return f"{self.trial} seed {self.seed}"


class Trial(NamedTuple):
    """A point of a sweep.

    Attributes:
      settings: {setting: value} of those that vary. config: with the recipe's own seed.
      point: {setting: its text}.
    """

    name: str
    settings: dict[str, Any]
    config: RunConfig
    point: Mapping[str, str]

    def runs(self, workdir: epath.Path, seeds: Iterable[int]) -> list[Run]:
        """The runs of the trial, one a seed."""
        return [
            Run(self.name, seed, dataclasses.replace(self.config, seed=seed),
                workdir / self.name / f"seed{seed}")
            for seed in seeds
        ]  # fmt: skip


def resolve(point: Mapping[str, str], build: Build) -> Trial:
    """The trial of a point, {setting: text}.

    Raises:
      ConfigError: an unknown setting, or a text that is no value of it.
    """
    config = build(point)
    flat = flatten(config)
    settings = {key: flat.get(key, text) for key, text in sorted(point.items())}
    return Trial(trial_name(settings), settings, config, point)


def flatten(config: RunConfig) -> dict[str, Any]:
    """{setting: JSON value} of a run's settings."""
    return flatten_dict(json.loads(resume.config_json(config)), sep=".")


def resolve_all(points: Iterable[Mapping[str, str]], build: Build) -> list[Trial]:
    """The trials of several points.

    Raises:
      ConfigError: as `resolve`, and for two points that are the same.
    """
    trials = dict[str, Trial]()
    for point in points:
        trial = resolve(point, build)
        if trial.name in trials:
            raise ConfigError(f"{trial.name} is there twice; name each value once")
        trials[trial.name] = trial
    return list(trials.values())


@functools.cache  # all plugins are imported before the first name is read
def short(key: str) -> str:
    """The last part of a setting's name; the whole where that is another's first."""
    leaf = key.rpartition(".")[2]
    named = (k for k in keys() if k.rpartition(".")[2] == leaf and not k.startswith(SECOND))
    return leaf if next(named, "") == key else key


def value_text(value: Any) -> str:
    """A setting's value in names and tables."""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)


def trial_name(settings: Mapping[str, Any]) -> str:
    """The name of a trial, which is a folder: `name=muon,peak_lr=0.01`."""
    name = ",".join(f"{short(key)}={value_text(value)}" for key, value in settings.items())
    plain = re.sub(r"[^\w.,=+-]", "_", name)
    if plain != name or len(name) > MOST_NAME:
        text = json.dumps(settings, sort_keys=True)
        plain = f"{plain[:MOST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return plain or ALONE


class Entry(TypedDict):
    """A trial of the plan."""

    settings: dict[str, Any]
    seeds: list[int]


class Plan(TypedDict):
    """The content of plan.json: the settings that all trials share, and all trials so far."""

    base: dict[str, Any]
    trials: dict[str, Entry]


def read_plan(workdir: epath.Path, base: RunConfig) -> Plan:
    """The plan of a workdir; one without trials if it has none yet.

    Raises:
      ConfigError: it was made with other settings. DataError: the file is damaged.
    """
    path, text = workdir / PLAN, resume.config_json(base)
    if not path.exists():
        return Plan(base=json.loads(text), trials={})
    plan: Plan = json_files.read(path, Plan)
    if changed := resume.changes(json.dumps(plan["base"]), text):
        texts = [f"{key}: {old!r:.80} -> {new!r:.80}" for key, (old, new) in changed.items()]
        raise ConfigError(
            f"{workdir} holds a sweep with other settings ({'; '.join(texts)}). Type the old "
            "values, vary the setting by --grid, or give a new --workdir"
        )
    return plan


def add(plan: Plan, trials: Sequence[Trial], seeds: Iterable[int]) -> None:
    """Adds trials and seeds to a plan."""
    for trial in trials:
        entry = plan["trials"].setdefault(trial.name, Entry(settings=trial.settings, seeds=[]))
        entry["seeds"] = sorted({*entry["seeds"], *seeds})


def write_plan(workdir: epath.Path, plan: Plan) -> None:
    """Writes the plan of a workdir.

    Raises:
      OSError: it cannot be written.
    """
    text = strict_json.dumps({"base": plan["base"], "trials": plan["trials"]}, indent=2)
    write_atomically(workdir / PLAN, text + "\n")
