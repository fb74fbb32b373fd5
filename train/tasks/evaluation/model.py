"""The evaluation of one model on benchmarks, stored as it goes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from train.interop import opening
from train.tasks.base import Outcome
from train.tasks.evaluation import results, samples
from train.tasks.evaluation.benchmark import Benchmark, Result, evaluate, tried
from train.tasks.evaluation.items import Stored
from train.tasks.evaluation.pace import Pace
from train.tasks.scoring.scorer import Scorer
from train.terminal.progress import Progress, phase


class Evaluated(NamedTuple):
    """A model's results.

    Attributes:
      model: what decides its answers. entries: of the results, for results.json.
      failed: {label of a benchmark: the reason why it has no result}.
    """

    model: results.Model
    results: list[Result]
    entries: list[dict[str, Any]]
    failed: dict[str, str]


class Evaluation:
    """The evaluation of one model.

    Args:
      name, step: as of a Place (command.py). out: the folder of its items. dtype: of the
        computation; "" for the model's.
      samples: right and wrong answers of each benchmark that are written.
      given: the settings `seed`, `limit` and `chat` of the benchmarks.
    """

    def __init__(
        self, name: str, step: int | None, out: epath.Path, dtype: str, samples: int,
        given: Mapping[str, Any],
    ):  # fmt: skip
        self.name, self.out = name, out
        self._step, self._dtype, self._samples, self._given = step, dtype, samples, given
        self._stored = list[Stored]()  # of each benchmark
        self._items = 0

    def kept(self) -> str:
        """The part of the work that is kept, whenever the command is interrupted."""
        done = sum(len(stored.responses) for stored in self._stored)
        if not done:
            return "no item was answered"
        return (
            f"{done} of {self._items} items are kept in {self.out}; the same command answers the "
            "rest"
        )

    def run(
        self, benchmarks: Sequence[Benchmark], mesh: jax.sharding.Mesh, progress: Progress
    ) -> Evaluated:
        """Answers what is not answered, and writes the results of each benchmark."""
        opened = opening.open_model(self.name, "policy", mesh, self._dtype)
        with phase("reading the weights"):
            model = results.model_of(opened, self._step)
        folders = [self._open(model, benchmark, progress) for benchmark in benchmarks]
        self._items = progress.total = sum(len(b.requests) for b in benchmarks)
        progress.done = sum(len(stored.responses) for stored in self._stored)
        if progress.done:
            progress.say(f"  {progress.done:,} of {progress.total:,} items were answered before")
        pace = Pace(
            (benchmark.task.kind, request)
            for benchmark, stored in zip(benchmarks, self._stored, strict=True)
            for number, request in enumerate(benchmark.requests)
            if number not in stored.responses
        )
        scorer = Scorer(opened.config, opened.tokenizer, mesh)
        answer = functools.partial(self._answer, scorer, opened.params, progress, pace)
        done = Evaluated(model, [], [], {})
        for benchmark, stored, folder in zip(benchmarks, self._stored, folders, strict=True):
            with phase(benchmark.label):
                result, reason = tried(benchmark.label, answer, benchmark, stored)
            if reason:
                done.failed[benchmark.label] = reason
            else:
                done.results.append(result)
                done.entries.append(self._write(benchmark, result, folder))
        return done

    def _answer(
        self, scorer: Scorer, params: Any, progress: Progress, pace: Pace, benchmark: Benchmark,
        stored: Stored,
    ) -> Result:  # fmt: skip
        """`evaluate`, with the mean so far and the time left on the terminal."""
        metric = next(iter(benchmark.task.metrics.values()))
        values = list[float]()

        def count(number: int, outcome: Outcome) -> None:
            seconds = pace.add(benchmark.task.kind, benchmark.requests[number])
            if metric.item in outcome:
                values.append(outcome[metric.item])
            so_far = [f"{metric.item} {sum(values) / len(values):.4g}"] if values else []
            progress.update(progress.done + 1, so_far, seconds)

        pace.begin()
        seed = self._given["seed"]
        return evaluate(scorer, params, benchmark, scorer.tokenizer, seed, stored, count)

    def _open(self, model: results.Model, benchmark: Benchmark, progress: Progress) -> epath.Path:
        """Opens the folder of a benchmark with the items that are answered."""
        settings = results.settings_of(model, benchmark, self._given)
        folder = results.folder_of(self.out, settings)
        for message in results.begin(folder, settings, model.name):
            progress.say(f"  {benchmark.label}: {message}")
        self._stored.append(stored := Stored(folder))
        if stored.damaged:
            progress.say(f"  {folder}: {stored.damaged} damaged lines; their items are asked again")
        return folder

    def _write(self, benchmark: Benchmark, result: Result, folder: epath.Path) -> dict[str, Any]:
        """Writes the results of a benchmark; returns its entry of results.json."""
        entry = results.as_json(result, benchmark, folder)
        results.write(folder / "result.json", entry)
        if result.task.labels:
            results.write_confusion(folder / "confusion.csv", result)
        kept = samples.right_and_wrong(benchmark, result, self._samples)
        results.write_lines(folder / "samples.jsonl", kept)
        return entry
