"""A chain of stages in one process, each started from earlier ones, and a report at the end.

The recipe has `order`, names of stages, and `stages`, a recipe for each; `init_from` names earlier
entries. A stage that has finished leaves a DONE file and is not run again (finished.py); an
interrupted one resumes from its checkpoint.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
from etils import epath

from data.atomic import write_atomically
from data.splits import Read
from interpreter import python
from model import sharding
from ranges import ConfigError
from train import loop
from train.assembly.inputs import read_source
from train.config.names import suggest
from train.config.run import RunConfig, build, keys
from train.config.run_names import split_step
from train.guards.watchdog import Activity, Watchdog
from train.objectives import registry
from train.report import collect, provenance
from train.runtime import outputs, processes
from train.runtime.records import read_metrics
from train.runtime.trackers import registry as trackers
from train.terminal import saved
from train.terminal.console import console, duration
from train.terminal.progress import Progress
from train.workflows import finished


def resolve(config: Mapping[str, Any], workdir: epath.PathLike) -> dict[str, RunConfig]:
    """{name: settings of the stage} in order, with workdirs in place of the names in `init_from`.

    Raises:
      ConfigError: an unknown key, `order` and `stages` that differ, a stage that starts from a
        later one, or invalid settings of a stage.
    """
    if "stages" not in config or "order" not in config:
        command = "train.improve" if "improve" in config else "train"
        raise ConfigError(
            "this recipe is no chain, which has order and stages: run it with "
            f"{python()} -m {command}"
        )
    for key in (key for key in config if key not in ("order", "stages")):
        hint = suggest(key, keys(), "stages.NAME.")
        raise ConfigError(f"unknown config key {key} of a chain, which has order and stages{hint}")
    if not isinstance(config["order"], list | tuple):
        raise ConfigError(f"order={config['order']!r}; it must be a tuple of names")
    order = tuple(config["order"])
    if set(order) != set(config["stages"]):
        raise ConfigError(f"order {order} and stages {tuple(config['stages'])} are not the same")
    runs = {}
    for name in order:
        if not re.fullmatch(r"\w[\w.-]*", str(name)):  # it is a folder in the workdir
            raise ConfigError(
                f"stages.{name!r:.80}: a stage's name consists of letters, digits, _, . and -"
            )
        recipe = config["stages"][name].copy_and_resolve_references()
        for role, origin in recipe.init_from.items():
            stage, _ = split_step(origin)
            if stage in order and stage not in runs:
                raise ConfigError(f"stages.{name}.init_from.{role}={stage}, which is not before it")
            if stage in runs:
                recipe.init_from[role] = str(epath.Path(workdir) / origin)
        try:
            runs[name] = build(recipe)
        except ValueError as e:
            raise ConfigError(f"stages.{name}: {e}") from e
    return runs


def run(
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    begun: float | None = None,
    profile: range = range(0),
    allow_change: Collection[str] = (),
) -> None:
    """Runs the stages that are not done yet, then writes the report. Arguments: see `loop.run`."""
    code = provenance.commit()  # of what is imported; it may change while the stages train
    workdir = epath.Path(workdir)
    runs = resolve(config, workdir)
    done = finished.check(runs, workdir, allow_change)
    examples, reads = {}, dict[str, Read]()
    with Progress(workdir.name, writes=jax.process_index() == 0):
        for name, run_config in runs.items():  # bad input is refused before the first stage trains
            row = registry.validate(run_config, sharding.make_mesh(run_config.mesh))
            if jax.process_index() == 0:
                trackers.check(run_config.trackers, run_config.tracking)
            if name not in done:
                with Watchdog(run_config.watchdog, Activity()):
                    examples[name] = read_source(run_config.data, row.schema, reads=reads)
    reads.clear()
    for number, (name, run_config) in enumerate(runs.items(), 1):
        if name in done:
            console.print(f"[green]✓[/] {name}: done", markup=True)
            continue
        if processes.asked_to_stop():
            raise processes.Stopped(saved.describe(workdir))
        console.print(f"[bold]▸ stage {number}/{len(runs)}: {name}[/]", markup=True)
        since, begun = begun or time.time(), None
        loop.run(run_config, workdir / name, examples=examples.pop(name), begun=since,
                 profile=profile, allow_change=allow_change,
                 position=f"{number}/{len(runs)} ")  # fmt: skip
        if jax.process_index() == 0:
            seconds = time.time() - since
            for evaluation in read_metrics(workdir / name, "eval")[-1:]:
                seconds = max(seconds, evaluation.get("elapsed_seconds", 0.0))
            note = {"seconds": round(seconds, 1), "made": provenance.current(code)}
            path, text = workdir / name / "DONE", json.dumps(note) + "\n"
            write = functools.partial(write_atomically, path, text)
            outputs.write_later(path, write, "the chain has no report")
            console.print(f"[green]✓[/] {name}: {duration(seconds)}", markup=True)
    if jax.process_index() == 0:
        outputs.write_again()
        _, reason = outputs.tried("the report", collect.write, runs, workdir)
        if reason:
            instead = "the stages are done, and the same command tries it again"
            outputs.failed(f"{workdir}/report.html", reason, instead)
