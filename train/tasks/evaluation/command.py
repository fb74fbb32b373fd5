"""The command `python -m train.evaluate`: benchmarks of one model, or of two compared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

import plugins
from data.atomic import is_remote
from data.errors import DataError
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.chat.workdirs import check_workdir
from train.config import run as run_config
from train.config.run_names import split_name
from train.config.saved import recipe_of
from train.interop import opening
from train.objectives.registry import STAGES
from train.runtime import compilation, outputs
from train.runtime.metrics import quiet_to_file
from train.tasks import registry, sources
from train.tasks.base import Suite, Task
from train.tasks.evaluation import report, table
from train.tasks.evaluation.benchmark import Benchmark, prepare, tried
from train.tasks.evaluation.model import Evaluation
from train.terminal import interrupts
from train.terminal.console import console
from train.terminal.progress import Progress, phase
from train.terminal.saved import committed_steps


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's flags.

    Attributes:
      workdir: the model, as `open_model` takes it. against: another, or "".
      tasks: names, or YAML files. shots: numbers of examples; empty for each task's own.
      limit: the most documents of a task; 0 for all. seed: of examples and of sampling.
      data: folders that are searched for the tasks' files, or TASK=SOURCE.
      chat: whether prompts are conversations.
      dtype: of the computation; "" for the model's. out: the folder of results; "" for the
        default. samples: right and wrong answers of each task that are written.
    """

    workdir: str
    tasks: Sequence[str]
    shots: Sequence[int] = ()
    limit: int = 0
    seed: int = 0
    data: Sequence[str] = ()
    chat: bool = False
    dtype: str = ""
    against: str = ""
    out: str = ""
    samples: int = 4


class Plan(NamedTuple):
    """The tasks of a command.

    Attributes:
      tasks: with the numbers of examples of each. suites: those named.
      notes: settings that do not apply to one of them.
    """

    tasks: list[tuple[Task, tuple[int, ...]]]
    suites: list[Suite]
    notes: list[str]


def plan(options: Options) -> Plan:
    """The tasks that are named, those of suites included.

    Raises:
      ConfigError: none is named, or one does not exist.
    """
    if not options.tasks:
        raise ConfigError("--tasks is missing; type --tasks=arc_easy,piqa (--list names all)")
    tasks, suites, notes = dict[str, tuple[Task, dict[int, None]]](), list[Suite](), list[str]()

    def add(task: Task, shots: Iterable[int]) -> None:
        tasks.setdefault(task.name, (task, {}))[1].update(dict.fromkeys(shots))

    for name in options.tasks:
        row = registry.find(name)
        if isinstance(row, Suite):
            suites.append(row)
            for part in row.parts.values():
                member = registry.TASKS[part.task]
                assert isinstance(member, Task)
                add(member, [part.shots])
            if options.shots:
                notes.append(f"{row.name} has its own numbers of examples; --shots is not for it")
        else:
            add(row, options.shots or [row.shots])
    return Plan([(task, tuple(shots)) for task, shots in tasks.values()], suites, notes)


def read(tasks: Plan, options: Options) -> tuple[list[Benchmark], dict[str, str]]:
    """(benchmarks, {task: the reason why it cannot be asked})."""
    benchmarks, failed = list[Benchmark](), dict[str, str]()
    for task, shots in tasks.tasks:
        with phase(f"reading {task.name}"):
            read, reason = tried(task.name, _prepare, task, shots, options)
        if reason:
            failed[task.name] = reason
        else:
            benchmarks += read
    return benchmarks, failed


def _prepare(task: Task, shots: Sequence[int], options: Options) -> list[Benchmark]:
    """`prepare`; a task of the run's own data has that of --workdir."""
    if task.of_run and opening.is_run(split_name(options.workdir).workdir):
        config = run_config.build(recipe_of(options.workdir))
        try:
            task = task.of_run(config.data, STAGES[config.stage].schema)
        except DataError:
            if not options.data:  # which may have a file of the task
                raise
    if task.with_tokenizer:
        task = task.with_tokenizer(opening.open_tokenizer(options.workdir))
    return prepare(task, shots, options.limit, options.seed, options.data, options.chat)


class Place(NamedTuple):
    """Where a model is.

    Attributes:
      name: as `open_model` takes it, of a run with its step. folder: of its results by default.
    """

    name: str
    step: int | None
    folder: epath.Path


def place_of(name: str, flag: str, role: str = "policy") -> Place:
    """The place of a model that a flag names.

    Raises:
      ValueError: it is neither a run with a saved model of that role nor an open model, a policy.
    """
    path, step, _ = parts = split_name(name)
    if role != "policy" or opening.is_run(path) or not _may_be_open(epath.Path(name)):
        check_workdir(path, flag, role)
        if step is None and (step := committed_steps(path).get("")) is None:
            raise ConfigError(f"--{flag}={name} holds no checkpoint; train that stage first")
        whole = str(parts._replace(step=step))
        return Place(whole, step, epath.Path(path) / "evals" / whole.removeprefix(path))
    stem = epath.Path(name.rstrip("/")).name.removesuffix(".gguf")
    return Place(name, None, epath.Path("runs") / "evals" / stem)


def _may_be_open(path: epath.Path) -> bool:
    """Whether a path is an open model's, or its name, OWNER/MODEL, on the hub."""
    if path.suffix == ".gguf" or (path / "config.json").exists():
        return True
    return len(path.parts) == 2 and not path.exists() and not path.parent.exists()


def list_tasks() -> None:
    """Prints the benchmarks that there are."""
    console.print(table.tasks(registry.TASKS.values()))


def run(options: Options) -> int:
    """Evaluates a model, prints its results and writes them; returns the exit code: 1 if a
    benchmark has no result.

    Raises:
      ConfigError: before anything is read, where possible.
    """
    asked = plan(options)
    sources.check(options.data, [task.name for task, _ in asked.tasks])
    place = place_of(options.workdir, "workdir")
    out = epath.Path(options.out) if options.out else place.folder
    given = {"seed": options.seed, "limit": options.limit, "chat": options.chat}
    settings = options.dtype, options.samples, given
    first, second = Evaluation(place.name, place.step, out, *settings), None
    if options.against:
        place = place_of(options.against, "against")
        second = Evaluation(
            place.name, place.step, epath.Path(options.out or place.folder), *settings
        )
    begin(out, lambda: "; ".join(e.kept() for e in (first, second) if e))
    mesh = make_mesh(MeshConfig())
    try:
        with jax.set_mesh(mesh):
            with Progress(epath.Path(first.name).name) as progress:
                for note in asked.notes:
                    progress.say(f"  {note}")
                benchmarks, unread = read(asked, options)
                for benchmark in {b.task.name: b for b in benchmarks}.values():
                    unused = (f"--{flag} makes no difference" for flag in benchmark.unused)
                    for note in (*benchmark.notes, *unused):
                        progress.say(f"  {benchmark.task.name}: {note}")
                if not benchmarks:
                    raise ConfigError("; ".join(f"{name}: {why}" for name, why in unread.items()))
                evaluated = first.run(benchmarks, mesh, progress)
            other = None
            if second:
                with Progress(epath.Path(second.name).name) as progress:
                    other = second.run(benchmarks, mesh, progress)
    except KeyboardInterrupt:
        interrupts.leave(interrupts.message())
    whole = report.write(
        out, dataclasses.asdict(options), asked.suites, benchmarks, evaluated, other, unread
    )
    return 0 if whole else 1


def begin(out: epath.Path, kept: Callable[[], str]) -> None:
    """Prepares the process: the folder, with the log of libraries; compiled programs; Ctrl-C."""
    outputs.make_folder(out, "out")
    quiet_to_file(os.devnull if is_remote(out) else str(out / "log.txt"))
    compilation.enable("auto", out)
    interrupts.watch(kept)


def main(
    lists: bool, modules: Sequence[str], shots: Sequence[str], values: Mapping[str, Any]
) -> int:
    """The command with its flags; returns the exit code.

    Args:
      lists: print the tasks instead. modules: plugins to import first. shots: as typed.
      values: other fields of `Options`.

    Raises:
      ConfigError: a flag is missing, or no number.
    """
    plugins.load(modules)
    if lists:
        list_tasks()
        return 0
    if not values["workdir"]:
        raise ConfigError("--workdir is missing; type --workdir=RUN, or that of an open model")
    for word in shots:
        if not word.strip().isdecimal():
            raise ConfigError(f"--shots={','.join(shots)}: {word!r} is no number; type --shots=0,5")
    values = {**values, "dtype": values["dtype"] or ""}
    return run(Options(shots=[int(word) for word in shots], **values))
