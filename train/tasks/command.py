"""The command `python -m train.evaluate`: benchmarks of one model, or of two compared."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

import plugins
from data.errors import DataError
from interpreter import python
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.interop import opening
from train.report import provenance
from train.runtime import compilation, outputs
from train.runtime.metrics import quiet_to_file
from train.tasks import curves, pairs, registry, results, samples, table
from train.tasks.base import Estimate, Suite, Task
from train.tasks.items import Stored
from train.tasks.pace import Pace
from train.tasks.run import Benchmark, Result, evaluate, prepare
from train.tasks.scoring.scorer import Scorer
from train.terminal import interrupts
from train.terminal.console import console, print_error
from train.terminal.progress import Progress, phase
from train.terminal.saved import committed_steps


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's flags.

    Attributes:
      workdir: the model, as `open_model` takes it. against: another, or "".
      tasks: names, or YAML files. shots: numbers of examples; empty for each task's own.
      limit: the most documents of a task; 0 for all. seed: of examples and of sampling.
      data: folders that are searched for the tasks' files. chat: whether prompts are conversations.
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


class Evaluated(NamedTuple):
    """A model's results.

    Attributes:
      model: what decides its answers. folders: {label of a benchmark: its folder}.
      failed: {label: the reason why it has no result}.
    """

    model: results.Model
    results: list[Result]
    folders: dict[str, epath.Path]
    failed: dict[str, str]


class Plan(NamedTuple):
    """What is asked of a model.

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
    shots, suites, notes = dict[str, dict[int, None]](), list[Suite](), list[str]()
    for name in options.tasks:
        row = registry.find(name)
        if isinstance(row, Suite):
            suites.append(row)
            for part in row.parts.values():
                shots.setdefault(part.task, {})[part.shots] = None
            if options.shots:
                notes.append(f"{row.name} has its own numbers of examples; --shots is not for it")
            continue
        numbers = options.shots or (row.shots,)
        if row.kind == "rolling":
            numbers = (0,)
            notes += [f"{row.name} scores whole texts; --shots is not for it"] * any(options.shots)
            notes += [f"{row.name} scores whole texts; --chat is not for it"] * options.chat
        shots.setdefault(name, {}).update(dict.fromkeys(numbers))
    tasks = [(registry.find(name), tuple(numbers)) for name, numbers in shots.items()]
    return Plan(tasks, suites, notes)


def read(tasks: Plan, options: Options) -> tuple[list[Benchmark], dict[str, str]]:
    """(benchmarks, {task: the reason why it cannot be asked})."""
    benchmarks, failed = list[Benchmark](), dict[str, str]()
    for task, shots in tasks.tasks:
        with phase(f"reading {task.name}"):
            read, reason = outputs.tried(
                task.name, prepare, task, shots, options.limit, options.seed, options.data,
                options.chat,
            )  # fmt: skip
        if reason:
            failed[task.name] = reason
        else:
            benchmarks += read
    return benchmarks, failed


def place(name: str) -> tuple[str, int | None, epath.Path]:
    """(name of a model, of a run with its step; the step; the default folder of its results)."""
    path, step = opening.split_step(name)
    if not opening.is_run(path):
        stem = epath.Path(name.rstrip("/")).name.removesuffix(".gguf")
        return name, None, epath.Path("runs") / "evals" / stem
    step = committed_steps(path).get("") if step is None else step
    return f"{path}@{step}", step, epath.Path(path) / "evals" / f"@{step}"


class Evaluation:
    """The evaluation of one model.

    Args:
      name: of the model, as `open_model` takes it. out: the folder for its items.
    """

    def __init__(self, name: str, step: int | None, out: epath.Path, options: Options):
        self._name, self._step, self._out, self._options = name, step, out, options
        self._stored = dict[str, tuple[Stored, int]]()  # with the number of all items

    def kept(self) -> str:
        """What a command that is interrupted has kept."""
        done = sum(len(stored.responses) for stored, _ in self._stored.values())
        total = sum(count for _, count in self._stored.values())
        if not done:
            return "no item is answered yet"
        return f"{done} of {total} items are kept in {self._out}; the same command answers the rest"

    def run(self, benchmarks: Sequence[Benchmark], mesh: Any, progress: Progress) -> Evaluated:
        """Answers what is not answered, and writes the results of each benchmark."""
        options, failed = self._options, dict[str, str]()
        opened = opening.open_model(self._name, "policy", mesh, options.dtype)
        model = results.model_of(opened, self._name, self._step)
        given = {"seed": options.seed, "limit": options.limit, "chat": options.chat}
        folders = dict[str, epath.Path]()
        for benchmark in benchmarks:
            settings = results.settings_of(model, benchmark, given)
            folders[benchmark.label] = folder = results.folder_of(self._out, settings)
            for message in results.begin(folder, settings):
                progress.say(f"  {benchmark.label}: {message}")
            stored = Stored(folder)
            self._stored[benchmark.label] = stored, len(benchmark.requests)
            if stored.damaged:
                progress.say(f"  {folder}: {stored.damaged} damaged lines are answered again")
        left = {
            b.label: [i for i in range(len(b.requests)) if i not in self._responses(b)]
            for b in benchmarks
        }
        progress.total = sum(count for _, count in self._stored.values())
        progress.done = progress.total - sum(map(len, left.values()))
        if progress.done:
            progress.say(f"  {progress.done:,} of {progress.total:,} items were answered before")
        pace = Pace((b, left[b.label]) for b in benchmarks)
        scorer = Scorer(opened.config, opened.tokenizer, mesh)
        done = list[Result]()
        for benchmark in benchmarks:

            def count(number: int, benchmark: Benchmark = benchmark) -> None:
                seconds = pace.add(benchmark.task.kind, benchmark.requests[number])
                progress.update(progress.done + 1, (), seconds)

            pace.begin()
            with phase(benchmark.label):
                result, reason = outputs.tried(
                    benchmark.label, evaluate, scorer, opened.params, benchmark, opened.tokenizer,
                    options.seed, self._stored[benchmark.label][0], count,
                )  # fmt: skip
            if reason:
                failed[benchmark.label] = reason
                continue
            done.append(result)
            folder = folders[benchmark.label]
            results.write(folder / "result.json", results.as_json(result, folder))
            kept = samples.right_and_wrong(benchmark, result, options.samples)
            results.write_lines(folder / "samples.jsonl", kept)
        return Evaluated(model, done, folders, failed)

    def _responses(self, benchmark: Benchmark) -> Any:
        return self._stored[benchmark.label][0].responses
