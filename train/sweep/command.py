"""The command `python -m train.sweep`: what it is asked for, checked; the runs; the comparison."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from data.atomic import is_remote, write_atomically
from ranges import ConfigError
from train import cli
from train.config.run import RunConfig, build
from train.guards import lock
from train.sweep import (
    adaptive,
    comparison,
    grid,
    inputs,
    launched,
    metric,
    programs,
    results,
    trials,
    workers,
)
from train.sweep.grid import Space
from train.sweep.launched import Launch, Launcher
from train.sweep.metric import Metric
from train.sweep.report import page, table
from train.sweep.runner import Runner, program_line
from train.sweep.trials import Plan, Run, Trial
from train.terminal.console import console
from train.terminal.progress import Progress


class Sweep(NamedTuple):
    """The request of a command line.

    Attributes:
      base: the settings of the recipe. seeds: of the runs. trials: those that are known before the
        first run; empty for an adaptive search.
      integers: {drawn setting: whether it is an int}.
      adaptive: whether Optuna chooses the trials. parallel: number of processes.
      launch: where the runs are launched, if not in this process.
    """

    workdir: epath.Path
    base: RunConfig
    space: Space
    seeds: Sequence[int]
    metric: Metric
    trials: Sequence[Trial]
    integers: Mapping[str, bool]
    adaptive: bool
    parallel: int
    build: trials.Build
    launch: Launch | None = None


def asked(workdir: str, flags: Mapping[str, Any], build_with: trials.Build) -> Sweep:
    """The sweep of a command line, as far as it can be checked without data or devices.

    Args:
      flags: by name. build_with: ({setting: text}) -> the settings of a run.

    Raises:
      ConfigError: bad input.
    """
    search = flags["search"] == "optuna"
    space = grid.space(flags, search)
    base = build_with({})
    seeds = range(base.seed, base.seed + flags["seeds"])
    flat = trials.flatten(base)
    for key in space.keys:
        build_with({key: _first(space, key)})  # an unknown one is refused, with the nearest
    integers = {draw.key: isinstance(flat.get(draw.key), int) for draw in space.draws}
    for draw in space.draws:
        if not isinstance(flat.get(draw.key), int | float) or isinstance(flat[draw.key], bool):
            raise ConfigError(f"{draw.key} is no number to draw; type --grid={draw.key}=A,B")
        for share in (0.0, 1.0):
            build_with({draw.key: draw.value(share, integers[draw.key])})
    if search:
        if flags["parallel"] > 1:
            raise ConfigError(
                "--search=optuna runs one trial after the other; leave out --parallel"
            )
        note = adaptive.check(space, len(seeds), base.evaluate.every > 0)
        if note:
            console.print(f"  {note}")
        known = []
        for axis in space.grid:
            trials.resolve_all([{axis.key: value} for value in axis.values], build_with)
    else:
        if not space.keys and len(seeds) == 1:
            example = grid.EXAMPLES["grid"]
            raise ConfigError(f"there is nothing to compare; type --grid={example}, or --seeds=3")
        known = trials.resolve_all(space.points(integers), build_with)
    configs = {trial.name: trial.config for trial in known} or {
        "": build_with({key: _first(space, key) for key in space.keys})
    }
    chosen, *_ = (
        metric.find(config, flags["metric"], flags["mode"] or "", name if space.keys else "")
        for name, config in configs.items()
    )
    metric.check_averages(space.keys, chosen)
    return Sweep(
        epath.Path(workdir), base, space, seeds, chosen, known, integers, search,
        flags["parallel"], build_with,
    )  # fmt: skip


def _first(space: Space, key: str) -> str:
    """A value of a setting that varies, as text."""
    for axis in (*space.grid, *space.zipped):
        if axis.key == key:
            return axis.values[0]
    draw = next(draw for draw in space.draws if draw.key == key)
    return grid.rounded(draw.low, draw.low.is_integer() and draw.high.is_integer())


def run(sweep: Sweep) -> int:
    """Runs what has not ended yet, and compares; returns the exit code: 1 if a run failed or
    diverged.

    Raises:
      ConfigError, DataError: bad input, before anything runs.
      processes.Stopped: the process was asked to stop.
    """
    worker = workers.this_worker()
    if worker:
        return _work(sweep, worker)
    workdir = sweep.workdir
    with lock.owned(workdir), programs.counted() as count:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        plan = trials.read_plan(workdir, sweep.base)
        runs = runs_of(sweep)
        sources = dict[str, epath.Path]()
        if not sweep.launch:
            with Progress(workdir.name):
                sources = inputs.prepare(runs)
        trials.add(plan, sweep.trials, sweep.seeds)
        trials.write_plan(workdir, plan)
        total = sweep.space.trials * len(sweep.seeds) if sweep.adaptive else len(runs)
        if sweep.launch:
            console.print(f"  {launched.describe(sweep.launch, runs)}")
        elif not sweep.adaptive:
            console.print(f"  {programs.describe(sweep.trials, total)}")
        runner, compiled = Runner(sweep.metric, sources, count, total), None
        try:
            if sweep.launch:
                launched.run_all(sweep.launch, runs, sweep.metric)
            elif sweep.adaptive:
                runs = _search(sweep, runner, plan)
            elif sweep.parallel > 1:
                _check_parallel(workdir)
                compiled = workers.run_parallel(sweep.parallel, workdir, runs, sweep.metric)
            else:
                runner.run_all(runs)
        finally:
            failed = write(workdir, plan, sweep.metric, sweep.base)
        if sweep.parallel == 1:
            compiled = len(count.compiled)
        if line := program_line([run.workdir for run in runs], compiled):
            console.print(f"  {line}")
        show(workdir, plan, sweep.metric)
    return 1 if failed else 0


def runs_of(sweep: Sweep) -> list[Run]:
    """The runs of the trials that are known."""
    return [run for trial in sweep.trials for run in trial.runs(sweep.workdir, sweep.seeds)]


def _work(sweep: Sweep, worker) -> int:
    """The runs that this worker takes of a sweep that another process has prepared."""
    with programs.counted() as count:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        runs = runs_of(sweep)
        runner = Runner(sweep.metric, inputs.prepare(runs), count, len(runs))
        workers.work(worker, runner, runs, count)
    return 0


def _check_parallel(workdir: epath.Path) -> None:
    """Refuses several processes where they cannot share the devices or the workdir."""
    if jax.default_backend() != "cpu":
        raise ConfigError(
            f"--parallel: one process owns the {jax.default_backend()}; leave it out, and the runs "
            "come one after the other on all devices"
        )
    if is_remote(workdir):
        raise ConfigError("--parallel needs a --workdir on this machine")


def _search(sweep: Sweep, runner: Runner, plan: Plan) -> list[Run]:
    """Runs the trials of an adaptive search; returns their runs."""
    every = list[Run]()

    def runs_of(point: Mapping[str, str]) -> list[Run]:
        trial = trials.resolve(point, sweep.build)
        runs = trial.runs(sweep.workdir, sweep.seeds)
        runner.sources |= inputs.prepare(runs)
        trials.add(plan, [trial], sweep.seeds)
        trials.write_plan(sweep.workdir, plan)
        return runs

    def run_one(run: Run, after_evaluation: adaptive.AfterEvaluation | None) -> None:
        every.append(run)
        runner.run(run, len(every), after_evaluation)

    adaptive.search(sweep.space, sweep.integers, sweep.metric, len(sweep.seeds), runs_of, run_one)
    return every


def write(workdir: epath.Path, plan: Plan, chosen: Metric, base: RunConfig) -> int:
    """Writes table.md, sweep.json and sweep.html; returns the number of runs that failed."""
    ranked = results.read(workdir, plan, chosen)
    rows, verdict = comparison.compare(ranked), comparison.verdict(ranked, chosen)
    write_atomically(workdir / "table.md", table.markdown(rows, chosen, verdict))
    write_atomically(workdir / "sweep.json", table.as_json(rows, chosen, verdict, plan["base"]))
    write_atomically(workdir / "sweep.html", page.page(workdir.name, rows, chosen, verdict, base))
    return len(table.failures(ranked))


def show(workdir: epath.Path, plan: Plan, chosen: Metric) -> None:
    """Prints the table and the verdict."""
    ranked = results.read(workdir, plan, chosen)
    console.print()
    console.print(table.table(comparison.compare(ranked), chosen))
    console.print()
    for line in comparison.verdict(ranked, chosen):
        console.print(line)
    if failed := table.failures(ranked):
        console.print(f"{len(failed)} runs failed or diverged, so the exit code is 1:")
        for name, reason in failed.items():
            console.print(f"  {name}: {reason}")
    console.print(f"  {workdir}/sweep.html, table.md and sweep.json have all of it")
    console.print(f"  curves: tensorboard --logdir={workdir}")


def from_flags(values: Mapping[str, Any], launcher: Launcher) -> int:
    """The command with its flags; returns the exit code."""
    sweep = asked(values["workdir"], values, lambda point: build(cli.config_with(point)))
    sweep = with_launch(sweep, values, launcher, cli.recipe_words())
    if sweep.launch and values["dry_run"]:
        launched.show(sweep.launch, runs_of(sweep))
        return 0
    worker = workers.this_worker()
    cli.start(functools.partial(_kept, sweep.workdir), f"log-worker-{worker.name}.txt" if worker
              else "log.txt")  # fmt: skip
    return run(sweep)


def with_launch(
    sweep: Sweep, flags: Mapping[str, Any], launcher: Launcher, recipe: Sequence[str]
) -> Sweep:
    """The sweep with the launch that its flags request, checked.

    Args:
      recipe: the words of the command line with the recipe and its settings.

    Raises:
      ConfigError: bad input.
    """
    others = [name for name in ("at_once", "dry_run") if flags[name]]
    if not flags["launch"]:
        if others:
            raise ConfigError(f"--{others[0]} is about the runs that --launch starts; add --launch")
        return sweep
    if sweep.adaptive or sweep.parallel > 1:
        other = "--search=optuna" if sweep.adaptive else "--parallel"
        raise ConfigError(f"{other} is for runs on this machine; leave it or --launch out")
    points = {trial.name: trial.point for trial in sweep.trials}
    words = launched.read(flags["launch"])
    cache = flags["compilation_cache"]
    launch = Launch(launcher, words, flags["at_once"] or 1, recipe, cache, points)
    launched.check(launch, runs_of(sweep))
    if not flags["dry_run"]:
        launched.check_readable(sweep.workdir)
    return sweep._replace(launch=launch)


def _kept(workdir: epath.Path) -> str:
    return f"what has ended and what is saved in {workdir} stays; the same command resumes there"
