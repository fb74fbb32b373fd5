"""Benchmarks while training: the tasks of train/tasks, with the numbers of `train.evaluate`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

import ranges
from data.text.base import Tokenizer
from ranges import ConfigError, CountOr0
from train.tasks import registry
from train.tasks.base import Outcome, Suite
from train.tasks.evaluation import samples
from train.tasks.evaluation.benchmark import Benchmark, evaluate, prepare
from train.tasks.scoring.scorer import Scorer
from train.terminal.progress import phase


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Settings of a benchmark.

    Attributes:
      task: a name that `python -m train.evaluate --list` prints, or a YAML file; `source` replaces
        its data by another file, or by those of a folder. shots: examples before each question;
        by default the task's own number. chat: whether prompts are conversations.
    """

    task: str = ""
    shots: CountOr0 | None = None
    chat: bool = False

    def __post_init__(self):
        ranges.check(self)


def open_benchmark(
    name: str, entry: Any, config: Any, objective: Any
) -> Callable[[Tokenizer], Benchmark]:
    """The function that reads the benchmark of an entry of `config.evals`.

    Args:
      config, objective: of the run.

    Raises:
      ConfigError: there is no such task. DataError: it is of a run's data, and not of this one's.
    """
    key = f"evals.{name}"
    task, data = registry.find(entry.task, f"{key}.task"), list[str]()
    if isinstance(task, Suite):
        raise ConfigError(
            f"{key}.task={task.name} is a group of tasks; give each an entry of its own: "
            f"{', '.join(dict.fromkeys(part.task for part in task.parts.values()))}"
        )
    sources = [entry.source] if isinstance(entry.source, str) else list(entry.source)
    if all(source and epath.Path(source).is_dir() for source in sources):
        data = sources
    elif len(sources) > 1:
        raise ConfigError(f"{key}.source has several files; give one, or folders")
    elif sources[0]:
        task = dataclasses.replace(task, source=sources[0], pool="")
    elif task.of_run:
        task = task.of_run(config.data, objective.schema)
    shots = task.shots if entry.shots is None else entry.shots

    def read(tokenizer: Tokenizer) -> Benchmark:
        asked = task.with_tokenizer(tokenizer) if task.with_tokenizer else task
        (benchmark,) = prepare(asked, (shots,), entry.limit, data=data, chat=entry.chat)
        for setting in benchmark.unused:
            raise ConfigError(f"{key}.{setting} makes no difference to {task.name}; leave it out")
        return benchmark

    return read


# The benchmarks of a run share compiled programs.
_scorer = functools.lru_cache(1)(Scorer)


class TaskEvaluation:
    """A benchmark of the policy in training.

    Args:
      ctx: the run's Context.
    """

    def __init__(self, ctx: Any, benchmark: Benchmark):
        self.ctx, self.benchmark = ctx, benchmark
        self._scorer = _scorer(ctx.models["policy"], ctx.tokenizer, ctx.mesh)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del frozen
        benchmark, done = self.benchmark, 0
        with phase("evaluating", len(benchmark.requests)) as progress:

            def count(number: int, outcome: Outcome) -> None:
                nonlocal done
                done += 1
                progress.count(done)

            params = trainable["policy"]
            result = evaluate(self._scorer, params, benchmark, self.ctx.tokenizer, count=count)
        metrics = dict[str, float]()
        for name, (value, stderr) in result.metrics.items():
            metrics[name] = value
            if math.isfinite(stderr):
                metrics[f"{name}_stderr"] = stderr
        most = self.ctx.config.evaluate.samples
        return metrics, samples.right_and_wrong(benchmark, result, -(-most // 2))[:most]
