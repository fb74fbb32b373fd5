"""A run's configuration: one frozen dataclass a consumer, built from an ml_collections tree.

Recipes (configs/) start from `default()`, which holds every field with its default. `build` turns a
recipe into a `RunConfig`, rejects unknown keys and names the nearest.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping

import ml_collections

from data.pipeline import DataConfig
from model.config import TransformerConfig
from model.lora import LoRA
from model.quantized import DTYPES
from model.sharding import MeshConfig
from model.sizes import SIZES
from train.optimizer import OptimizerConfig


class ConfigError(ValueError):
    """A configuration that cannot be run. The message says which key, why, and what to type."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A named size, and what differs from it: a field that is 0 is the size's.

    An empty `size` takes the whole architecture from the run that `init_from` names. `mimetic`
    starts a new model for little text (model/mimetic.py).
    """

    size: str = ""
    embed_dim: int = 0
    num_layers: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    mlp_dim: int = 0
    vocab_multiple: int = 0
    max_length: int = 0
    rope_base: float = 0.0
    dtype: str = "float32"
    scan_unroll: int = 1
    remat: str = "none"
    replicate_kv_heads: bool = False
    attention: str = "auto"
    attention_block: int = 1024
    attention_compute_block: int = 512
    mimetic: bool = False

    def build(self, vocab_size: int) -> TransformerConfig:
        if not self.size:
            raise ConfigError(
                "model.size is empty: type --config.model.size=NAME, or start from a run with "
                "--config.init_from.policy=WORKDIR"
            )
        if self.size not in SIZES:
            near = difflib.get_close_matches(self.size, SIZES, 1)
            raise ConfigError(
                f"model.size={self.size!r}; the sizes are {', '.join(SIZES)}"
                + (f" (did you mean {near[0]}?)" if near else "")
            )
        given = dataclasses.asdict(self)
        del given["size"], given["mimetic"]
        fields = SIZES[self.size] | self.execution()
        fields |= {k: v for k, v in given.items() if v and k not in self.execution()}
        return TransformerConfig(vocab_size=vocab_size, **fields)

    def execution(self) -> dict:
        """Settings that do not change the parameters."""
        names = ("dtype", "scan_unroll", "remat", "replicate_kv_heads")
        names += ("attention", "attention_block", "attention_compute_block")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """`path`: a workdir with a tokenizer; empty trains one of `kind` on the run's own text."""

    path: str = ""
    kind: str = "sentencepiece"
    vocab_size: int = 4096


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Attributes:
    z_loss: weight of log Z² in pretraining and SFT.
    chunk: positions of each row whose logits exist at once (train/vocabulary.py); 0 is all. Fewer
      take less memory and a second pass through the vocabulary head.
    load_balance, router_z: weights of a mixture's router losses there (`router_losses` in
      train/losses.py).
    margin, center: of reward models (train/losses.py).
    pool: how a reward model's score is read, `last` or `mean` (`read_scores` in
      train/rewards.py).
    """

    z_loss: float = 1e-4
    chunk: int = 0
    load_balance: float = 0.01
    router_z: float = 0.001
    pool: str = "last"
    margin: float = 0.0
    center: float = 0.01


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimization (`preference_optimization` in train/losses.py).

    Attributes:
      beta: how dear it is to leave the reference. loss: `sigmoid` or `ipo`.
      label_smoothing: share of the rankings taken to be the wrong way round.
      average: log-probabilities of answers are means over their tokens, as IPO's authors advise
        where answers differ in length; else sums.
    """

    beta: float = 0.1
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    average: bool = False

    def __post_init__(self):
        if self.loss not in ("sigmoid", "ipo"):
            raise ConfigError(f"dpo.loss={self.loss!r}; choose sigmoid or ipo")
        if self.beta <= 0:
            raise ConfigError(f"dpo.beta={self.beta}; it must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"dpo.label_smoothing={self.label_smoothing}; it must be at least 0 and below 0.5"
            )


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """PPO, and what GRPO shares with it: all but the critic's settings, GAE's and whitening.
    `data.batch_size` is the minibatch; an update is `epochs` passes over a rollout.

    Attributes:
      prompt_length, response_length: P and R. rollout_batch: episodes a rollout.
      temperature: of sampling and of every log-probability.
      kl_coef: β of the KL in the reward; with `kl_target` above 0 it adapts over `kl_horizon`.
      kl_estimator: of the reward's KL: k1, k2, k3.
      kl_loss_coef: of a KL in the policy's loss, by `kl_loss_estimator`. Of the three k2 alone has
        the KL's gradient there, at the first minibatch; GRPO's authors use k3.
      gamma, lam: of GAE. clip_low, clip_high, dual_clip: of the policy loss.
      value_clip, value_coef: of the value loss.
      whiten_advantages: over the rollout. normalize_scores: scores of the reference's samples (the
        first rollout) get mean 0 and std 1. score_clip: largest normalised score; 0 does not clip.
      missing_eos: an answer cut off before its end keeps its score (`keep`), loses
        `missing_eos_value` (`penalty`), has it for score (`replace`), or teaches the policy nothing
        (`mask`).
      overlong_buffer: an answer that goes into the last so many tokens loses up to 1, linearly
        (DAPO's soft overlong punishment); 0 is none.
      importance_cap: above 0, the policy's loss of a token is weighed by how much likelier the
        trainer thinks it than the sampler did, to at most this (truncated importance sampling).
      bootstrap_truncated: such an answer's last value is not 0 but the critic's.
      critic_warmup: rollouts in which the critic alone learns.
      max_kl: a minibatch further than this (approximate KL a token) from its rollout is not
        applied; 0 applies all.
      pretrain_coef: weight of next-token loss on `pretrain_data` mixed in (PPO-ptx).
      reward_function: `module:function` in place of a reward model (train/rewards.py).
      eval_prompts: held-out prompts sampled at evaluation.
    """

    prompt_length: int = 32
    response_length: int = 64
    rollout_batch: int = 64
    epochs: int = 2
    temperature: float = 1.0
    kl_coef: float = 0.05
    kl_target: float = 0.0
    kl_horizon: int = 10_000
    kl_estimator: str = "k1"
    kl_loss_coef: float = 0.0
    kl_loss_estimator: str = "k2"
    gamma: float = 1.0
    lam: float = 0.95
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    value_clip: float = 0.2
    value_coef: float = 0.1
    whiten_advantages: bool = True
    normalize_scores: bool = True
    score_clip: float = 0.0
    missing_eos: str = "keep"
    missing_eos_value: float = 1.0
    overlong_buffer: int = 0
    importance_cap: float = 0.0
    bootstrap_truncated: bool = False
    stop_at_eos: bool = True
    critic_warmup: int = 0
    max_kl: float = 0.0
    pretrain_coef: float = 0.0
    reward_function: str = ""
    eval_prompts: int = 256

    def __post_init__(self):
        if self.missing_eos not in ("keep", "penalty", "replace", "mask"):
            raise ConfigError(
                f"ppo.missing_eos={self.missing_eos!r}; choose keep, penalty, replace or mask"
            )
        for name in ("kl_estimator", "kl_loss_estimator"):
            if getattr(self, name) not in ("k1", "k2", "k3"):
                raise ConfigError(f"ppo.{name}={getattr(self, name)!r}; choose k1, k2 or k3")
        if self.overlong_buffer > self.response_length:
            raise ConfigError(
                f"ppo.overlong_buffer={self.overlong_buffer} is more than "
                f"ppo.response_length={self.response_length}"
            )
        if self.temperature <= 0:
            raise ConfigError(f"ppo.temperature={self.temperature}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """What is GRPO's own; the rest is `ppo`.

    Attributes:
      group_size: answers to a prompt; `ppo.rollout_batch` counts answers.
      baseline, scale: of advantages, `mean` or `others`, `std` or `none` (`group_advantages` in
        train/advantages.py).
      loss_mean: over a `token`, `sequence` or `constant` (`token_weights` in train/losses.py).
      ratio: a `token`'s or its `sequence`'s (GSPO; clip to a few 1e-4 then).
      max_draws: draws of prompts a rollout may take until no group's scores are all equal (DAPO's
        dynamic sampling); 1 takes them as they come.
    """

    group_size: int = 8
    baseline: str = "mean"
    scale: str = "std"
    loss_mean: str = "sequence"
    ratio: str = "token"
    max_draws: int = 1

    def __post_init__(self):
        for name, known in (
            ("baseline", ("mean", "others")),
            ("scale", ("std", "none")),
            ("loss_mean", ("token", "sequence", "constant")),
            ("ratio", ("token", "sequence")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"grpo.{name}={getattr(self, name)!r}; choose {' or '.join(known)}"
                )
        if self.group_size < 2:
            raise ConfigError(
                f"grpo.group_size={self.group_size}; it must be at least 2, to compare answers"
            )
        if self.max_draws < 1:
            raise ConfigError(f"grpo.max_draws={self.max_draws}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """What is trained of the models that are (train/parts.py).

    Attributes:
      frozen, trained: patterns of weights. With one given, the rest is the other; with both, every
        weight has to match one; with neither all is trained, or, beside adapters, only heads.
      dtype: in which the layers' frozen weights are held (model/quantized.py).
    """

    frozen: str = ""
    trained: str = ""
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ConfigError(f"freeze.dtype={self.dtype!r}; choose {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """`every` steps (0: only at the ends), before the first step too if `at_start`.

    `samples` texts are written to samples.jsonl, of at most `sample_tokens` tokens.
    """

    every: int = 0
    at_start: bool = True
    samples: int = 4
    sample_tokens: int = 64


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saves `every` steps (0: only at the end) and keeps the newest `keep`."""

    every: int = 100
    keep: int = 2


PYDOCS = DataConfig(source="tfds:pydocs/text:train")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One stage.

    Attributes:
      stage: a row of train/stages.py. steps: optimizer steps. accumulate: microbatches a step.
      init_from: {role: workdir} to start from; roles are policy, value, reward, reference, judge.
      value_optimizer: PPO's critic; pretrain_data: PPO's pretraining mix.
    """

    stage: str = "pretrain"
    seed: int = 0
    steps: int = 1000
    accumulate: int = 1
    log_every: int = 10
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    data: DataConfig = PYDOCS
    pretrain_data: DataConfig = PYDOCS
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    value_optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    dpo: DPOConfig = dataclasses.field(default_factory=DPOConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    grpo: GRPOConfig = dataclasses.field(default_factory=GRPOConfig)
    lora: LoRA = dataclasses.field(default_factory=LoRA)
    freeze: FreezeConfig = dataclasses.field(default_factory=FreezeConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; it must be at least 1")
        if self.data.batch_size % self.accumulate:
            raise ConfigError(
                f"data.batch_size={self.data.batch_size} is not a multiple of "
                f"accumulate={self.accumulate}"
            )


# Mappings whose keys the user chooses.
_FREE = ("init_from", "fields", "keep")


def default() -> ml_collections.ConfigDict:
    """Every field of a run with its default, as a recipe to change."""
    config = ml_collections.ConfigDict(dataclasses.asdict(RunConfig()), type_safe=False)
    # Named, so that a command line may set them in any recipe; empty ones are not set.
    config.init_from = dict.fromkeys(("policy", "value", "reward", "reference", "judge"), "")
    fields = ("text", "system", "prompt", "response", "chosen", "rejected")
    config.data.fields = dict.fromkeys(fields, "")
    return config


def build(config: Mapping, cls=RunConfig, where: str = "") -> RunConfig:
    """A recipe -> frozen dataclasses.

    Raises:
      ConfigError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{where[:-1]}={config!r} is not a group of settings; set its fields")
    types = typing.get_type_hints(cls)
    given = {}
    for key in config:
        value = config[key]
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            raise ConfigError(
                f"unknown config key {where}{key}"
                + (f"; did you mean {where}{near[0]}?" if near else f"; known: {', '.join(types)}")
            )
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            value = build(value, kind, f"{where}{key}.")
        elif kind in (int, float, bool, str):
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(
                    f"{where}{key}={value!r} is a {type(value).__name__}; it must be "
                    f"a{'n' if kind is int else ''} {kind.__name__}"
                )
        elif key in _FREE:
            if not isinstance(value, Mapping | ml_collections.ConfigDict):
                raise ConfigError(f"{where}{key}={value!r}; set --config.{where}{key}.NAME=VALUE")
            value = {k: v for k, v in value.items() if v != ""}
        elif isinstance(value, list | tuple):
            value = tuple(value)
        elif not isinstance(value, str):
            raise ConfigError(f"{where}{key}={value!r}; it must be a str or a tuple of them")
        given[key] = value
    return cls(**given)
