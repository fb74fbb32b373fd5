"""The types of evaluation that `config.evals` may name, and the evaluations of a run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import registry
from data.config import DataConfig
from data.passages.config import PassagesConfig
from data.pipeline import Data
from data.read.readers import may_be_document
from data.text.base import Tokenizer
from ranges import ConfigError
from registry import Registry
from train.evals import tasks
from train.evals.base import EvalConfig, Evaluation, Fingerprinted
from train.evals.generative import Samples, SamplesConfig
from train.evals.perplexity import Perplexity
from train.terminal.progress import phase


class EvalType(NamedTuple):
    """A row of EVALS.

    Attributes:
      build: (ctx, data, stage) -> Evaluation, with a keyword `settings` if it has settings. ctx:
        the run's Context. data: the Data with its held-out rows. stage: the run's Stage.
      schemas: the schemas of data that it reads, the default first; empty for the stage's own.
      role: the role that the run has to train; "" for any.
      open: (name, entry, config, objective) -> the function of a tokenizer that reads data of
        its own kind, which `build` is given, or ConfigError for settings that do not fit; None for
        a type that reads a Data.
    """

    build: Callable[..., Evaluation]
    schemas: tuple[str, ...] = ()
    role: str = "policy"
    open: Callable[[str, Any, Any, Any], Callable[[Tokenizer], Fingerprinted]] | None = None


EVALS: Registry[EvalType] = Registry("evaluation", "evals.NAME.type")
EMA = "ema"  # the name, or its beginning, of an evaluation of averaged weights


def evaluation(
    name: str, schemas: tuple[str, ...] = (), role: str = "policy", settings: type | None = None,
    open: Callable | None = None,
) -> Callable[[Callable], Callable]:  # fmt: skip
    """Decorates the `build` of an EvalType; `settings` is a frozen dataclass."""

    def decorate(build):
        EVALS.register(name, EvalType(build, schemas, role, open), settings)
        return build

    return decorate


@evaluation("perplexity", ("text", "chat"))
def perplexity(ctx: Any, data: Data, stage: Any) -> Evaluation:
    """The loss per token and bits per byte."""
    del stage
    return Perplexity(ctx, data)


@evaluation("samples", ("text", "chat"), settings=SamplesConfig)
def samples(ctx: Any, data: Data, stage: Any, settings: SamplesConfig) -> Evaluation:
    """Generated texts for people to read."""
    del stage
    return Samples(ctx, data, settings)


@evaluation("stage", role="")
def stage_evaluation(ctx: Any, data: Data, stage: Any) -> Evaluation:
    """The stage's own evaluation: next-token loss on text and conversations, the ranking of
    preferences, or the score, KL and win rate of answers to prompts."""
    del ctx
    return stage.evaluation(data)


@evaluation("task", settings=tasks.TaskConfig, open=tasks.open_benchmark)
def task_evaluation(
    ctx: Any, data: tasks.Benchmark, stage: Any, settings: tasks.TaskConfig
) -> Evaluation:
    """A benchmark, as `python -m train.evaluate` scores it."""
    del stage, settings  # `data` was opened by them
    return tasks.TaskEvaluation(ctx, data)


def entry_class(types: Iterable[str]) -> type:
    """EvalConfig with the settings of some types as further fields."""
    fields: dict = {}
    for name in types:
        fields = EVALS.fields_of(name) | fields
    return registry.with_fields(EvalConfig, fields)


def validate(config: Any, objective: Any) -> None:
    """Validates `config.evals` before any data is read.

    Raises:
      ConfigError: an evaluation does not fit the stage, or cannot read its data.
    """
    for name, entry in config.evals.items():
        if config.optimizer.ema and re.match(rf"{EMA}(_|$)", name):
            raise ConfigError(
                f"evals.{name}: with optimizer.ema names that begin so are those of evaluations of "
                "the averaged weights; give another name"
            )
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(
                f"evals.{name!r:.80}: a name consists of letters, digits, _ and -, as "
                "--config.evals.wiki.type=perplexity"
            )
        role = EVALS[entry.type].role
        if role and role not in objective.trainable:
            fitting = [k for k, t in EVALS.items() if t.role in ("", *objective.trainable)]
            raise ConfigError(
                f"evals.{name}.type={entry.type} reads a {role}, and stage {config.stage} trains "
                f"none; choose --config.evals.{name}.type={' or '.join(fitting)}"
            )
        if open_own := EVALS[entry.type].open:
            _refuse_unread(name, entry)
            open_own(name, entry, config, objective)
        schema_of(name, entry, objective)


def _refuse_unread(name: str, entry: EvalConfig) -> None:
    """Refuses settings of a Data for a type that reads none."""
    default = EvalConfig()
    for setting in ("schema", "fields", "documents", "length"):
        if getattr(entry, setting) != getattr(default, setting):
            raise ConfigError(
                f"evals.{name}.{setting} is of rows of data, and type {entry.type} reads none; "
                "leave it out"
            )


def schema_of(name: str, entry: EvalConfig, objective: Any) -> str:
    """The schema (data/schemas) of an evaluation's data; "" for data of a type's own kind.

    Raises:
      ConfigError: the type does not read it.
    """
    if EVALS[entry.type].open:
        return ""
    readable = EVALS[entry.type].schemas or (objective.schema,)
    if not entry.source and objective.schema not in readable:
        raise ConfigError(
            f"evals.{name} has no source, and {entry.type} does not read the run's own held-out "
            f"data, of schema {objective.schema}; set --config.evals.{name}.source=PATH"
        )
    schema = entry.schema or (readable[0] if entry.source else objective.schema)
    if schema not in readable:
        raise ConfigError(
            f"evals.{name}.schema={schema!r:.80}; {entry.type} reads {' or '.join(readable)}"
        )
    return schema


def data_config(config: Any, entry: EvalConfig, schema: str, objective: Any) -> DataConfig:
    """The settings with which an evaluation's data is read. All of its source is held out, and only
    `limit` and the run's `data.on_long` and `data.on_bad` omit examples."""
    run, same = config.data, schema == objective.schema
    return dataclasses.replace(
        run,
        source=entry.source,
        mixture={},
        heldout_source=entry.source,
        heldout_limit=entry.limit,
        fields=entry.fields or (run.fields if same else {}),
        records=run.records if same and may_be_document(entry.source) else "",
        transforms=run.transforms if same else {},
        heldout_by="",
        documents=entry.documents,
        length=entry.length or run.heldout_length or run.length,
        heldout_length=0,
        batch_ramp={},
        length_ramp={},
        subset="",
        keep={},
        filters={},
        dedup="",
        decontaminate={},
        truncate="",
        fim_rate=0.0,
        passages=run.passages if same else PassagesConfig(),
    )


def read_own(config: Any, objective: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """{name: data} of the evaluations that read data of their own kind."""
    sets = {}
    for name, entry in config.evals.items():
        if open_own := EVALS[entry.type].open:
            read = open_own(name, entry, config, objective)
            with phase(f"reading {name}"):
                sets[name] = read(tokenizer)
    return sets


class Scheduled(NamedTuple):
    """An evaluation of a run and its interval; the stage's own has the name "".

    Attributes:
      averages: whether it is made with the averages of weights.
    """

    name: str
    evaluate: Evaluation
    every: int
    averages: bool = False

    def due(self, step: int, steps: int) -> bool:
        """Whether to evaluate after `step` of `steps` steps: also at the start and at the end."""
        return step in (0, steps) or (self.every > 0 and step % self.every == 0)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        """Metrics and samples, prefixed or marked with its name."""
        metrics, samples = self.evaluate(trainable, frozen)
        if not self.name:
            return metrics, samples
        metrics = {f"{self.name}/{key}": value for key, value in metrics.items()}
        return metrics, [{"eval": self.name, **sample} for sample in samples]


def build(ctx: Any, stage: Any, sets: Mapping[str, Any]) -> tuple[Scheduled, ...]:
    """The evaluations of a run, the stage's own first; with `optimizer.ema` those of the averaged
    weights follow, as `ema` and `ema_NAME`.

    Args:
      sets: {name: data} of the evaluations that do not read the run's own.
    """
    every = ctx.config.evaluate.every
    evaluations = [Scheduled("", stage.evaluation(ctx.data), every)]
    for name, entry in ctx.config.evals.items():
        settings = EVALS.arguments(entry.type, entry)
        evaluate = EVALS[entry.type].build(ctx, sets.get(name, ctx.data), stage, **settings)
        evaluations.append(Scheduled(name, evaluate, entry.every or every))
    if ctx.config.optimizer.ema:
        evaluations += [
            e._replace(name=f"{EMA}_{e.name}" if e.name else EMA, averages=True)
            for e in evaluations
        ]
    return tuple(evaluations)
