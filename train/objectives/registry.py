"""The stages, as rows of one table. A stage is data: what it trains, on what, and its loss.

Axes: B batch, T length, C candidates, P prompt length, R response length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import make_loader
from data.pipeline import Data
from data.text.tokenizer import Tokenizer
from model import sharding
from model.config import TransformerConfig
from model.transformer import Transformer
from ranges import ConfigError
from train import losses, vocabulary
from train.config.run import RunConfig
from train.evals.evaluators import DPOEvaluator, NextTokenEvaluator, PPOEvaluator, RewardEvaluator
from train.objectives import dpo
from train.rl import rewards
from train.rl.rollout import CRITICS, RolloutSource, policy_and_values
from train.rl.sampler import Sampler


@dataclasses.dataclass
class Context:
    """What a stage is built from.

    Attributes:
      models: the architecture of each role the stage uses.
      data: rows of both splits. pretrain_data: of the text that is mixed in, or None.
      normalizer: (gain, bias) of scores that the reward model brings, or None.
      keeps: what writes rows that were made anew to the workdir, once the run is accepted.
    """

    config: RunConfig
    models: dict[str, TransformerConfig]
    tokenizer: Tokenizer
    data: Data
    mesh: jax.sharding.Mesh
    pretrain_data: Data | None = None
    normalizer: tuple[float, float] | None = None
    keeps: tuple[Callable[[], None], ...] = ()


class Stage(NamedTuple):
    """The functions that train one stage; train/step.py and train/loop.py call them.

    Attributes:
      weights: batch -> {term: weight}, from masks alone.
      loss: (trainable, frozen, batch) -> ({term: sum}, {metric: (sum, weight)}); a metric named
        `…_max` is (the largest, 1).
      source: has `init() -> s`, `next(state, frozen, s, step) -> (batch, s, metrics)`, and
        `shares(s) -> {metric: share}` of a mixture's sources so far.
      evaluate: (trainable, frozen) -> (metrics, samples) on held-out data
      (train/evals/evaluators.py).
      veto: metrics -> bool array, true to leave an update out, and those after it until the
        source says otherwise (train/step.py).
    """

    weights: Callable
    loss: Callable
    source: Any
    evaluate: Callable
    veto: Callable = lambda metrics: jnp.bool_(False)


class LoaderSource:
    """Supervised batches: all the state there is, is the step."""

    def __init__(self, ctx: Context):
        config = ctx.config
        local = sharding.local_rows(ctx.mesh, config.data.batch_size)
        self._loader = make_loader(
            config.data, ctx.data, config.data.batch_size, config.seed, local, config.steps
        )
        self._mesh, self._steps, self._batches, self._at = ctx.mesh, ctx.config.steps, None, None

    def init(self):
        return {"step": np.asarray(0, np.int32)}

    def next(self, state, frozen, s, step: int):
        del state, frozen
        if self._at != step:
            self._batches, self._at = self._loader.iterate(step, self._steps), step
        batch = sharding.put_batch(next(self._batches), self._mesh)
        self._at += 1
        return batch, {"step": np.asarray(self._at, np.int32)}, {}

    def shares(self, s):
        return self._loader.shares(int(s["step"]))


def next_token_terms(ctx: Context):
    """`weights` and `loss` of next-token prediction where `loss_mask` is.

    A mixture of experts has the term `router` beside, over all tokens.
    """
    config, settings = ctx.models["policy"], ctx.config.loss
    balance_coef, router_coef = settings.load_balance, settings.router_z

    def count(batch):
        return jnp.sum(batch["segment_ids"] > 0).astype(jnp.float32)

    def weights(batch):
        terms = {"tokens": jnp.sum(batch["loss_mask"][:, 1:])}
        return terms | {"router": count(batch)} if config.num_experts else terms

    def loss(trainable, frozen, batch):
        del frozen
        args = batch["tokens"], batch["positions"], batch["segment_ids"]
        params = trainable["policy"]
        (hidden, _), router = Transformer(config).apply(
            {"params": params}, *args, mutable=["router"], method=Transformer.hidden
        )
        total, nats, weight = vocabulary.next_token_loss(
            config, params, hidden, batch, settings.z_loss, settings.chunk
        )
        sums, metrics = {"tokens": total}, {"nats_per_token": (nats, weight)}
        if config.num_experts:
            tokens = count(batch)
            balance, z = losses.router_losses(
                router["router"]["stats"], tokens, config.experts_per_token
            )
            sums["router"] = balance_coef * balance + router_coef * z
            metrics |= {"load_balance": (balance, tokens), "router_z": (z, tokens)}
        return sums, metrics

    return weights, loss


def next_token_stage(ctx: Context) -> Stage:
    """Pretraining and SFT: the data makes the difference."""
    weights, loss = next_token_terms(ctx)
    return Stage(weights, loss, LoaderSource(ctx), NextTokenEvaluator(ctx))


def reward_stage(ctx: Context) -> Stage:
    """Bradley-Terry over pairs and rankings, and thumbs up or down."""
    config, settings = ctx.models["reward"], ctx.config.loss

    def weights(batch):
        rank, group = batch["rank"], batch["group"]
        alike = settings.ties * jnp.sum(losses.tied(rank, group))
        single = jnp.sum(losses.alone(rank, group))
        return {"pairs": jnp.sum(losses.pairs(rank, group)) + alike + single}

    def loss(trainable, frozen, batch):
        del frozen
        scores = rewards.score_candidates(config, trainable["reward"], batch)
        total, _ = losses.bradley_terry(
            scores, batch["rank"], batch["group"], settings.margin, settings.center,
            losses.label_noise(settings.label_smoothing, batch["doubt"]), settings.ties,
        )  # fmt: skip
        return {"pairs": total}, losses.pair_metrics(scores, batch["rank"], batch["group"])

    return Stage(weights, loss, LoaderSource(ctx), RewardEvaluator(ctx))


def dpo_stage(ctx: Context) -> Stage:
    """Direct preference optimization over pairs and rankings, of rows with `ref_logprobs`."""
    settings = ctx.config.dpo

    def weights(batch):
        return {"pairs": jnp.sum(losses.pairs(batch["rank"], batch["group"]))}

    def loss(trainable, frozen, batch):
        del frozen
        implicit, rank, group = (
            dpo.implicit_rewards(ctx, trainable["policy"], batch), batch["rank"], batch["group"]
        )  # fmt: skip
        noise = losses.label_noise(settings.label_smoothing, batch["doubt"])
        total, count = losses.preference_optimization(
            implicit, rank, group, settings.beta, settings.loss, noise
        )
        beats = losses.pairs(rank, group)
        # An answer that people preferred may still become less likely; this shows it.
        better = losses.masked_sum(implicit[:, :, None], beats)
        metrics = losses.pair_metrics(implicit, rank, group) | {"better_reward": (better, count)}
        return {"pairs": total}, metrics

    return Stage(weights, loss, LoaderSource(ctx), DPOEvaluator(ctx))


def policy_stage(ctx: Context) -> Stage:
    """PPO and GRPO: a clipped policy loss over experience, with a critic the value loss too;
    optionally KL in the loss and a pretraining mix."""
    rl, ppo, grpo, models = ctx.config.rl, ctx.config.ppo, ctx.config.grpo, ctx.models
    R = rl.response_length
    critic = any(role in models for role in CRITICS)
    settings = R, rl.temperature, ctx.config.loss.chunk
    mean, sequence = ("token", False) if critic else (grpo.loss_mean, grpo.ratio == "sequence")
    text_weights, text_loss = next_token_terms(ctx)

    def weights(batch):
        terms = {"policy": losses.token_weights(batch["policy_mask"], mean)[1]}
        if critic:
            terms["value"] = jnp.sum(batch["response_mask"])
        if rl.pretrain_coef:
            # Text does not move the policy either while the critic warms up.
            teaches = jnp.any(batch["policy_mask"] > 0)
            terms["text"] = jnp.where(teaches, text_weights(batch["text"])["tokens"], 0.0)
        return terms

    def loss(trainable, frozen, batch):
        del frozen
        mask = batch["response_mask"]
        logprobs, entropies, values = policy_and_values(models, trainable, batch, settings)
        token_weights, count = losses.token_weights(batch["policy_mask"], mean)
        policy, _, metrics = losses.ppo_policy_loss(
            logprobs, batch["old_logprobs"], batch["advantages"], token_weights,
            rl.clip_low, rl.clip_high, rl.dual_clip, sequence,
        )  # fmt: skip
        largest = {"ratio_max": (metrics.pop("ratio_max"), jnp.float32(1))}
        metrics = {k: (v, jnp.sum(batch["policy_mask"])) for k, v in metrics.items()} | largest
        kl, valid = losses.kl_estimate(logprobs, batch["ref_logprobs"]), jnp.sum(mask)
        metrics |= {
            "policy_loss": (policy, count),
            "kl_per_token": (losses.masked_sum(kl, mask), valid),
            "entropy": (losses.masked_sum(entropies, mask), valid),
        }
        if rl.kl_loss_coef:
            kl = losses.kl_estimate(logprobs, batch["ref_logprobs"], rl.kl_loss_estimator)
            policy = policy + rl.kl_loss_coef * losses.masked_sum(kl, token_weights)
        sums = {"policy": policy}
        if critic:
            value, valid = losses.value_loss(
                values, batch["old_values"], batch["returns"], mask, ppo.value_clip
            )
            sums["value"] = ppo.value_coef * value
            metrics["value_loss"] = value, valid
        if rl.pretrain_coef:
            text_sums, text_metrics = text_loss(trainable, {}, batch["text"])
            sums["text"] = rl.pretrain_coef * text_sums["tokens"]
            metrics["text_nats_per_token"] = text_metrics["nats_per_token"]
        return sums, metrics

    def veto(metrics):
        return (metrics["approx_kl"] > rl.max_kl) & (rl.max_kl > 0)

    sampler = Sampler(ctx)
    evaluate = PPOEvaluator(ctx, sampler)
    return Stage(weights, loss, RolloutSource(ctx, sampler), evaluate, veto)


class StageRow(NamedTuple):
    """A row of the table.

    Attributes:
      schema: of its data (data/read/schemas.py). trainable: roles it trains; frozen: roles it
      reads;
        optional: roles it reads if `init_from` names them.
      origins: where a trained role's weights come from: roles of `init_from`, first named first.
        A role that starts from another kind of network takes its backbone.
      required: roles without which it cannot start.
      prepare: (ctx, frozen, origins, workdir) -> (ctx, frozen), once before it is built: what is
        computed with frozen models and kept, so that they need not be.
    """

    schema: str
    trainable: tuple[str, ...]
    build: Callable[[Context], Stage]
    origins: dict[str, tuple[str, ...]]
    frozen: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    prepare: Callable | None = None


STAGES = {
    "pretrain": StageRow("text", ("policy",), next_token_stage, {"policy": ("policy",)}),
    "sft": StageRow("chat", ("policy",), next_token_stage, {"policy": ("policy",)}),
    "reward": StageRow("preference", ("reward",), reward_stage, {"reward": ("reward", "policy")}),
    "dpo": StageRow(
        "preference",
        ("policy",),
        dpo_stage,
        {"policy": ("policy",)},
        frozen=("reference",),
        required=("policy",),
        prepare=dpo.prepare,
    ),
    "ppo": StageRow(
        "prompt",
        ("policy", "value"),
        policy_stage,
        {"policy": ("policy",), "value": ("value", "reward", "policy")},
        frozen=("reference",),
        optional=("reward", "judge"),
        required=("policy",),
    ),
    "grpo": StageRow(
        "prompt",
        ("policy",),
        policy_stage,
        {"policy": ("policy",)},
        frozen=("reference",),
        optional=("reward", "judge"),
        required=("policy",),
    ),
}


def check(config: RunConfig, mesh) -> StageRow:
    """The row of a run's stage, after the checks that need no data.

    Raises:
      ConfigError: an unknown stage or role, a role that is missing, sizes that do not divide.
    """
    if config.stage not in STAGES:
        raise ConfigError(f"stage={config.stage!r:.80}; the stages are {', '.join(STAGES)}")
    row = STAGES[config.stage]
    if config.stage == "ppo" and config.ppo.shared_critic:
        trainable = "policy", "value_head"
        row = row._replace(trainable=trainable, origins=dict.fromkeys(trainable, ("policy",)))
    known = {o for origins in row.origins.values() for o in origins}
    known |= {*row.frozen, *row.optional}
    for role in config.init_from:
        if role not in known:
            raise ConfigError(
                f"init_from.{role}: stage {config.stage} reads {', '.join(sorted(known))}"
            )
    for role in row.required:
        if role not in config.init_from:
            raise ConfigError(
                f"stage {config.stage} starts from a trained {role}; "
                f"type --config.init_from.{role}=WORKDIR"
            )
    if config.model.mimetic and config.init_from:
        raise ConfigError(
            "model.mimetic starts a new model, and this one starts from "
            f"{', '.join(config.init_from.values())}; set --config.model.mimetic=False"
        )
    if config.stage == "dpo" and config.data.share_prompt:
        raise ConfigError(
            "stage dpo reads each answer behind a prompt of its own; "
            "set --config.data.share_prompt=False"
        )
    rl, size = config.rl, config.data.batch_size
    micro = size // config.accumulate
    shards = sharding.batch_shards(mesh)
    sizes = {"the microbatch (data.batch_size / accumulate)": micro}
    if row.schema == "prompt":
        if not rewards.weights(config):
            raise ConfigError(
                f"stage {config.stage} needs scores: type --config.init_from.reward=WORKDIR of a "
                "reward stage, or --config.rl.reward_function=module:function, or give a verifier "
                "weight, as --config.rewards.gsm8k=1"
            )
        if rl.rollout_batch < 2:
            raise ConfigError(
                f"rl.rollout_batch={rl.rollout_batch}; answers are measured against others, so "
                "it must be at least 2"
            )
        sizes["rl.eval_prompts"] = rl.eval_prompts
        if rl.rollout_batch % size:
            raise ConfigError(
                f"rl.rollout_batch={rl.rollout_batch} is not a multiple of the minibatch "
                f"data.batch_size={size}"
            )
        if config.stage == "grpo" and rl.rollout_batch % config.grpo.group_size:
            raise ConfigError(
                f"rl.rollout_batch={rl.rollout_batch} counts answers, and is not a multiple of "
                f"grpo.group_size={config.grpo.group_size}"
            )
        updates = rl.epochs * (rl.rollout_batch // size)
        if config.steps % updates:
            raise ConfigError(
                f"steps={config.steps} is not a multiple of the {updates} optimizer steps that a "
                "rollout is used for (rl.epochs × rl.rollout_batch / data.batch_size)"
            )
        if rl.pretrain_coef and config.pretrain_data.batch_size % config.accumulate:
            raise ConfigError("pretrain_data.batch_size is not a multiple of accumulate")
    for name, value in sizes.items():
        if value % shards:
            raise ConfigError(
                f"{name} is {value}, which the mesh's {shards} batch shards (data × fsdp × "
                "expert) do not divide; change it or --config.mesh"
            )
    return row
