"""The configuration of a run: one frozen dataclass per consumer, built from an ml_collections tree.

Recipes (configs/) start from `default()`, which holds every field with its default. `build` turns a
recipe into a `RunConfig`, rejects unknown keys and names the nearest.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

import plugins
import ranges
import registry
from data.config import DataConfig
from interpreter import python
from model.lora import LoRA
from model.quantized import DTYPES
from model.sharding import MeshConfig
from ranges import ConfigError, Count, CountOr0, Seed, Size, SizeOr0
from train.config import budget
from train.config.guard import GuardConfig
from train.config.loss import LossConfig
from train.config.model import ModelConfig
from train.config.names import suggest
from train.config.rl import RewardsConfig, RLConfig
from train.evals import registry as evals
from train.evals.base import EvalConfig
from train.guards.watchdog import WatchdogConfig
from train.measures import statistics
from train.objectives import registry as objectives
from train.optimizer import OptimizerConfig
from train.runtime.trackers.registry import DEFAULT, TRACKERS, TrackingConfig

T = TypeVar("T", bound=Any)  # a dataclass


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of a run that does not start from another.

    Attributes:
      path: a workdir with a tokenizer; empty trains one on the run's own text.
      kind: of a tokenizer that is trained: `sentencepiece`, `char` or `byte`.
      vocab_size: the largest number of its ids.
      fim: whether it has the special tokens that `data.fim_rate` needs.
    """

    path: str = ""
    kind: str = "sentencepiece"
    vocab_size: Size = 4096
    fim: bool = False

    def __post_init__(self):
        ranges.check(self, "tokenizer.")


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """Trained and frozen weights of the models that a run trains (train/assembly/partition.py).

    Attributes:
      frozen, trained: patterns of weights. With one given, the other is the rest; with both, every
        weight has to match one; with neither all weights are trained, or with adapters only heads.
      dtype: of the layers' frozen weights, such as `int8` (model/quantized.py).
    """

    frozen: str = ""
    trained: str = ""
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ConfigError(f"freeze.dtype={self.dtype!r:.80}; choose {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The stage's own evaluation.

    Attributes:
      every: steps between evaluations; 0 evaluates at the start and the end only.
      at_start: whether to evaluate before the first step too.
      patience: the run ends after this many evaluations in a row without a better value of
        `checkpoint.best`, by default of the first held-out metric that the terminal shows; 0 never.
      samples: texts written to samples.jsonl each time. sample_tokens: the longest, in tokens.
    """

    every: CountOr0 = 0
    at_start: bool = True
    patience: CountOr0 = 0
    samples: SizeOr0 = 4
    sample_tokens: Size = 64

    def __post_init__(self):
        ranges.check(self, "evaluate.")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a run (train/checkpoints/checkpointer.py).

    Attributes:
      every: steps between checkpoints; 0 saves at the end only. keep: number of the newest
        that are kept.
      keep_every: checkpoints at multiples of this many steps are kept for good; 0: none.
      best: a metric of the evaluations, such as `loss`; the checkpoint with its best value is kept
        too, of those whose step was evaluated. best_mode: whether that is the `min` or the `max`.
    """

    every: CountOr0 = 100
    keep: Count = 2
    keep_every: CountOr0 = 0
    best: str = ""
    best_mode: str = "min"

    def __post_init__(self):
        ranges.check(self, "checkpoint.")
        if self.best_mode not in ("min", "max"):
            raise ConfigError(f"checkpoint.best_mode={self.best_mode!r:.80}; choose min or max")


PYDOCS = DataConfig(source="tfds:pydocs/text:train")


@registry.open_to(objectives.fields)
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of one run: those below, and those of each objective under the name of its stage.

    Attributes:
      stage: a row of train/objectives/registry.py.
      seed: of the initial weights, of the order of the data and of sampling.
      steps: optimizer steps; or a `budget`, as `20x`. accumulate: microbatches a step.
      budget: if not empty, what `steps` is computed from: `20x` (tokens a parameter, embeddings
        included), `1e9tokens`, `1e18flops` or `2h` (hours of steps, by the time of the first).
      log_every: steps between records of training metrics; 0 is 10, and a tenth of a short run.
      statistics: in these records, of gradients, weights and updates: by `groups` of weights, by
        `layers` too, and the `noise` of microbatches, which changes losses by rounding
        (train/measures/statistics.py).
      trackers: places besides metrics.jsonl that receive the records, rows of
        train/runtime/trackers/registry.py; `tracking` has their settings.
      init_from: {role: workdir} to start from; the roles that a stage reads are in its row.
      value_optimizer: of PPO's critic. pretrain_data: the text of PPO's pretraining loss.
      evals: {name: evaluation} besides the stage's own (train/evals/base.py).
      plugins: modules to import first, which add rows to registries (plugins.py).
    """

    stage: str = "pretrain"
    seed: Seed = 0
    steps: Count = 1000
    budget: str = ""
    accumulate: Count = 1
    log_every: CountOr0 = 0
    statistics: str | tuple[str, ...] = statistics.DEFAULT
    trackers: str | tuple[str, ...] = DEFAULT
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    data: DataConfig = PYDOCS
    pretrain_data: DataConfig = PYDOCS
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    value_optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    rl: RLConfig = dataclasses.field(default_factory=RLConfig)
    rewards: RewardsConfig = dataclasses.field(default_factory=RewardsConfig)
    lora: LoRA = dataclasses.field(default_factory=LoRA)
    freeze: FreezeConfig = dataclasses.field(default_factory=FreezeConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    evals: Mapping[str, EvalConfig] = dataclasses.field(default_factory=dict)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = dataclasses.field(default_factory=WatchdogConfig)
    plugins: str | tuple[str, ...] = ()

    def __post_init__(self):
        ranges.check(self)
        for name in ("plugins", "trackers", "statistics"):
            object.__setattr__(self, name, ranges.split_names(getattr(self, name)))
        for name in self.trackers:
            TRACKERS.find(name)
        statistics.check(self.statistics)
        every = [self.evaluate.every, *(entry.every for entry in self.evals.values())]
        if self.evaluate.patience and not any(every):
            raise ConfigError(
                f"evaluate.patience={self.evaluate.patience} counts evaluations, and evaluate.every"
                "=0 makes none before the last step; set --config.evaluate.every=STEPS"
            )
        model: Any = self.model  # its class is created at run time (train/config/model.py)
        if self.freeze.dtype == "int8" and model.matmul != "dtype":
            raise ConfigError(
                f"freeze.dtype=int8 and model.matmul={model.matmul}: frozen weights stored in int8 "
                "are multiplied in model.dtype; leave one of the two out"
            )
        if self.budget:
            budget.parse(self.budget)
        if self.data.batch_size % self.accumulate:
            raise ConfigError(
                f"data.batch_size={self.data.batch_size} is not a multiple of "
                f"accumulate={self.accumulate}"
            )


# Mappings whose keys the user chooses.
_FREE = (
    "init_from", "fields", "transforms", "keep", "filters", "mixture", "decontaminate", "evals",
    "rope_scaling", "lr_multipliers", "weights", "cycles", "batch_ramp", "length_ramp",
)  # fmt: skip


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    for name, kind in registry.hints_of(cls).items():
        yield prefix + name
        if registry.is_settings(kind):
            yield from _keys(kind, f"{prefix}{name}.")


def run_class() -> type[RunConfig]:
    """RunConfig with the settings of all registered rows, those of loaded plugins included."""
    return registry.current(RunConfig)


def keys() -> tuple[str, ...]:
    """Every setting and group of settings of a run, as `optimizer` and `optimizer.peak_lr`."""
    return tuple(_keys(run_class()))


def default() -> ml_collections.ConfigDict:
    """Every field of a run with its default, as a recipe to change."""
    config = ml_collections.ConfigDict(dataclasses.asdict(run_class()()), type_safe=False)
    # Present but empty, so that a command line can set them in any recipe; `build` drops empty
    # ones.
    config.init_from = dict.fromkeys(objectives.roles(), "")
    fields = ("text", "messages", "system", "prompt", "response", "chosen", "rejected")
    fields += ("confidence", "answer", "passages", "sources")
    config.data.fields = dict.fromkeys(fields, "")
    return config


def _plain(value: Any) -> Any:
    """A value without ConfigDicts, for messages."""
    return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value


def _check_text(key: str, value: Any) -> None:
    """Raises ConfigError for a value that is neither a text nor a list of texts."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{key}={_plain(value)!r:.80}; it must be a str or a tuple of them")


def literal(text: str) -> Any:
    """The Python value that a text denotes, or the text itself."""
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _texts(key: str, value: Any) -> str | tuple[str, ...]:
    """A text or a tuple of texts; a command line may write the tuple as in Python."""
    if isinstance(value, str) and value[:1] in ("(", "["):
        value = literal(value)
    _check_text(key, value)
    return value if isinstance(value, str) else tuple(value)


def _check_free(mapping: str, key: str, value: Any) -> None:
    """Raises ConfigError for a value whose type does not suit its mapping, one of `_FREE`."""
    if mapping == "init_from" and not isinstance(value, str):
        raise ConfigError(f"{key}={_plain(value)!r:.80}; it must be a str")
    if mapping in ("mixture", "decontaminate"):  # of sources
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={_plain(value)!r:.80}; set --config.{key}.source=PATH")
        _check_text(f"{key}.source", value.get("source", ""))
        for name, wanted in (("fields", "TEMPLATE"), ("transforms", "VALUE")):
            if not isinstance(inner := value.get(name, {}), Mapping):
                raise ConfigError(
                    f"{key}.{name}={_plain(inner)!r:.80}; set --config.{key}.{name}.NAME={wanted}"
                )


def build(config: Mapping) -> RunConfig:
    """A recipe -> frozen dataclasses; imports the plugins that it names.

    Raises:
      ConfigError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    if isinstance(config, Mapping | ml_collections.ConfigDict) and config.get("plugins"):
        _check_text("plugins", config["plugins"])
        plugins.load(config["plugins"])
    if isinstance(config, Mapping | ml_collections.ConfigDict) and "stages" in config:
        kind, command = (
            ("a loop of rounds", "train.improve") if "improve" in config
            else ("a chain of stages", "train.chain")
        )  # fmt: skip
        raise ConfigError(f"this recipe is {kind}: run it with {python()} -m {command}")
    steps = config.get("steps") if isinstance(config, Mapping | ml_collections.ConfigDict) else None
    if isinstance(steps, str):
        config = {k: v for k, v in config.items() if k != "steps"} | budget.from_steps(steps)
    return build_group(config, run_class(), "", keys())


def _build_evals(entries: Mapping) -> dict[str, EvalConfig]:
    """`config.evals`, each entry with the settings of its type."""
    built = {}
    for name, entry in entries.items():
        key = f"evals.{name}"
        if not isinstance(entry, Mapping | ml_collections.ConfigDict):
            raise ConfigError(f"{key}={_plain(entry)!r:.80}; set --config.{key}.type=TYPE")
        evals.EVALS.find(entry.get("type", ""), f"{key}.type")
        cls = evals.entry_class([entry["type"]])
        known = [f"{key}.{field.name}" for field in dataclasses.fields(cls)]
        built[name] = build_group(entry, cls, f"{key}.", known)
    return built


def build_group(config: Mapping, cls: type[T], prefix: str, known: Sequence[str]) -> T:
    """A group of settings -> its frozen dataclass.

    Args:
      prefix: of its keys, such as `optimizer.`. known: all keys, for suggestions.

    Raises:
      ConfigError: an unknown or missing key, or a value of the wrong type or out of its range.
    """
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        raise ConfigError(
            f"{prefix[:-1]}={_plain(config)!r:.80} is not a group of settings; set its fields"
        )
    types = registry.hints_of(cls)
    values: dict[str, Any] = {}
    for key in config:
        value = config[key]
        if key not in types:
            raise ConfigError(f"unknown config key {prefix}{key}{suggest(prefix + key, known)}")
        kind, optional = ranges.without_none(types[key])
        if optional and value is None:
            pass
        elif registry.is_settings(kind):
            value = build_group(value, kind, f"{prefix}{key}.", known)
        elif kind in (int, float, bool, str):
            if kind is float and type(value) is int:
                ranges.check_fields(cls, {key: value}, prefix)
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(
                    f"{prefix}{key}={_plain(value)!r:.80} is a {type(value).__name__}; it must be "
                    f"a{'n' if kind is int else ''} {kind.__name__}"
                )
        elif key in _FREE:
            if not isinstance(value, Mapping | ml_collections.ConfigDict):
                raise ConfigError(
                    f"{prefix}{key}={_plain(value)!r:.80}; set --config.{prefix}{key}.NAME=VALUE"
                )
            value = {str(k): _plain(v) for k, v in value.items() if v != ""}
            for name, entry in value.items():
                _check_free(key, f"{prefix}{key}.{name}", entry)
            value = _build_evals(value) if key == "evals" else value
        else:
            value = _texts(f"{prefix}{key}", value)
            value = ranges.split_names(value) if kind == tuple[str, ...] else value
        values[key] = value
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING is field.default_factory
        if needed and field.name not in values:
            raise ConfigError(f"{prefix}{field.name} is missing, and has no default")
    ranges.check_fields(cls, values, prefix)  # with the whole key, also of value_optimizer
    return cls(**values)
