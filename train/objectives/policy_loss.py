"""The code that PPO and GRPO share: the clipped policy loss over experience, with an optional KL
term and an optional pretraining mix; the validation of settings; and the report.

Axes: B episodes, R response length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from data.pipeline import Data
from ranges import ConfigError
from train import losses
from train.config.run_names import split_step
from train.evals.base import Evaluation
from train.evals.generative import ScoredAnswers
from train.objectives.base import Context, Stage
from train.objectives.next_token import next_token_terms
from train.objectives.reporting import Curve, Finished, Report, Result, judged, of
from train.rl import rewards
from train.rl.advantages import ROUNDING
from train.rl.forward import policy_and_values
from train.rl.rollout import RolloutSource


def policy_stage(
    ctx: Context,
    source: RolloutSource,
    mean: str = "token",
    sequence: bool = False,
    value_loss: Callable | None = None,
) -> Stage:
    """The stage of a policy that learns from rollouts.

    Args:
      mean: the kind of mean of the policy loss (`token_weights` in train/losses.py).
      sequence: whether the probability ratio is per sequence, instead of per token.
      value_loss: (values, batch) -> (sum, {metric: (sum, weight)}) of the critic, or None.
    """
    rl, models = ctx.config.rl, ctx.models
    settings = rl.response_length, rl.temperature, ctx.config.loss.chunk
    text_weights, text_loss = next_token_terms(ctx)

    def weights(batch):
        terms = {"policy": losses.token_weights(batch["policy_mask"], mean)[1]}
        if value_loss:
            terms["value"] = jnp.sum(batch["response_mask"])
        if rl.pretrain_coef:
            # While the critic warms up, text does not train the policy either.
            trains_policy = jnp.any(batch["policy_mask"] > 0)
            terms["text"] = jnp.where(trains_policy, text_weights(batch["text"])["tokens"], 0.0)
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
        if value_loss:
            sums["value"], value_metrics = value_loss(values, batch)
            metrics |= value_metrics
        if rl.pretrain_coef:
            text_sums, text_metrics = text_loss(trainable, {}, batch["text"])
            sums["text"] = rl.pretrain_coef * text_sums["tokens"]
            metrics["text_nats_per_token"] = text_metrics["nats_per_token"]
        return sums, metrics

    def veto(metrics):
        return (metrics["approx_kl"] > rl.max_kl) & (rl.max_kl > 0)

    def evaluation(data: Data) -> Evaluation:
        rows, samples = rl.eval_prompts, ctx.config.evaluate.samples
        return ScoredAnswers(ctx, data, source.sampler, rows, samples)

    return Stage(weights, loss, source, evaluation, veto)


def validate(config: Any) -> None:
    """Validates the settings of an objective with rollouts.

    Raises:
      ConfigError: nothing scores the answers, or sizes do not divide.
    """
    rl, size = config.rl, config.data.batch_size
    if not rewards.weights(config):
        raise ConfigError(
            f"stage {config.stage} needs scores: type --config.init_from.reward=WORKDIR of a "
            "reward stage, or --config.rl.reward_function=module:function, or give a verifier "
            "weight, as --config.rewards.gsm8k=1"
        )
    if rl.rollout_batch < 2:
        raise ConfigError(
            f"rl.rollout_batch={rl.rollout_batch}; answers are compared with others, so "
            "it must be at least 2"
        )
    if rl.rollout_batch % size:
        raise ConfigError(
            f"rl.rollout_batch={rl.rollout_batch} is not a multiple of the minibatch "
            f"data.batch_size={size}"
        )
    updates = rl.epochs * (rl.rollout_batch // size)
    if config.steps % updates:
        raise ConfigError(
            f"steps={config.steps} is not a multiple of the {updates} optimizer steps that a "
            "rollout is used for (rl.epochs × rl.rollout_batch / data.batch_size)"
        )
    if rl.pretrain_coef and config.pretrain_data.batch_size % config.accumulate:
        raise ConfigError("pretrain_data.batch_size is not a multiple of accumulate")


def divisible(config: Any) -> dict[str, int]:
    """{setting: number that the mesh's batch shards have to divide}."""
    rl = config.rl
    sizes = {"eval_prompts": rl.eval_prompts, "slots": rl.slots, "sample_batch": rl.sample_batch}
    return {f"rl.{name}": size for name, size in sizes.items()}


# Shifted by -1: a rollout is sampled before the step whose record holds its metrics.
CURVES = (
    Curve("score of the answers", "score", "rollout/score", "score", shift=-1),
    Curve("KL from the start", "nats an answer", "rollout/kl", "kl", shift=-1),
    Curve("length of the answers", "tokens", "rollout/length", "length", shift=-1),
    Curve(
        "score by KL",
        "score",
        "rollout/score",
        "score",
        across=("nats an answer", "rollout/kl", "kl"),
    ),
)


def trained_on(run: Finished) -> dict[str, str]:
    """{reward: its name in words} of the rewards whose sum a run trains on."""
    config = run.config
    names = {name: f"rewards.{name}" for name in rewards.weights(config)}
    if "model" in names:
        names["model"] = run.origin("reward")
    if "function" in names:
        names["function"] = config.rl.reward_function
    return names


def independent_judge(run: Finished) -> str | None:
    """The name of the judge of a run's answers, unless the run trains on it; None without one."""
    named = {role: split_step(name)[0] for role, name in run.config.init_from.items()}
    origins = {role: epath.Path(path).resolve() for role, path in named.items()}
    if "judge" not in origins:
        return None
    same = "model" in trained_on(run) and origins["judge"] == origins["reward"]
    return None if same else run.origin("judge")


def _numbers(run: Finished) -> dict:
    ended, answers = run.metric("eos_rate"), run.metric("answers")
    return {
        "score_before": run.metric("score", first=True),
        "score_std_before": run.metric("score_std", first=True),
        "score_after": run.metric("score"),
        "kl": run.metric("kl"),
        "win_rate_vs_sft": {
            "value": run.metric("win_rate"),
            "low": run.metric("win_rate_low"),
            "high": run.metric("win_rate_high"),
        },
        "compared": run.metric("compared"),
        "judge": independent_judge(run),
        "repetition_before": run.metric("reference_repetition"),
        "repetition_after": run.metric("repetition"),
        "repetition_rise_low": run.metric("repetition_rise_low"),
        "answers": answers,
        "answers_cut": None if ended is None or answers is None else round((1 - ended) * answers),
    }


def verdict(values: Mapping) -> tuple[str, str]:
    """The verdict and its reason. Good if a judge that the run did not train on prefers its answers
    (the lower bound of the interval is above 50%), and repetition did not rise beyond chance."""
    doubts = []
    if "judge" not in values:
        doubts.append("judged only by what it trained on")
    if not values["win_rate_vs_sft"]["low"] > 0.5:
        doubts.append("not preferred beyond chance")
    if "repetition_rise_low" not in values:
        doubts.append("repetition was not measured")
    elif not values["repetition_rise_low"] <= 0:
        before, after = values["repetition_before"], values["repetition_after"]
        doubts.append(f"its answers repeat themselves more: {before:.1%} → {after:.1%} of 4-grams")
    return judged(doubts, "it did not train on its judge; repetition did not rise beyond chance")


def _meaning(run: Finished, values: Mapping) -> str:
    origin = run.origin("reference", "policy")
    texts = [
        f"How often the judge prefers its answer to that of {origin}, on held-out questions, ties "
        "counted half; 50% would be no change."
    ]
    if {"score_before", "score_after", "score_std_before"} <= values.keys():
        before, after = values["score_before"], values["score_after"]
        text = f"The score it trains on went from {before:.2f} to {after:.2f}"
        if values["score_std_before"] > ROUNDING * abs(before):
            text += f", {(after - before) / values['score_std_before']:+.1f} standard deviations"
        texts.append(f"{text}.")
    texts.append(f"It moved {values['kl']:.1f} nats an answer (KL) from where it started.")
    count = values.get("answers")
    if count and "repetition_after" in values:
        before, after = values["repetition_before"], values["repetition_after"]
        texts.append(
            f"Of the 4-grams of an answer {after:.1%} repeat earlier ones, of one of {origin} "
            f"{before:.1%} (means over {count:.0f} answers)."
        )
    if count and "answers_cut" in values:
        cut, limit = values["answers_cut"], run.config.rl.response_length
        texts.append(f"{of(cut, count)} were cut off at {limit} tokens.")
    return " ".join(texts)


def report(method: Callable[[Any], str]) -> Report:
    """The report of an objective with rollouts.

    Args:
      method: config -> the name of the method.
    """

    def result(run, values, report) -> Result | None:
        won = values["win_rate_vs_sft"]
        if "kl" not in values or None in won.values():
            return None
        judge = values.get("judge") or ", ".join(trained_on(run).values())
        beside = f"judged by {judge} against {run.origin('reference', 'policy')}"
        if count := values.get("compared"):
            beside = f"{of(won['value'] * count, count)}, {beside}"
        beside += f"; 95% interval {won['low']:.0%} to {won['high']:.0%}"
        headline = f"{won['value']:.0%} of answers preferred"
        words = method(run.config), headline, beside, _meaning(run, values)
        return Result(*words, *verdict(values))

    return Report(_numbers, result, CURVES)
