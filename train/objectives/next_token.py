"""Next-token prediction: pretraining on text, and supervised fine-tuning on conversations.

The two differ in their data and in their reports.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from data.pipeline import Data
from model.transformer import Transformer
from train import losses, vocabulary
from train.evals.base import Evaluation, combined
from train.evals.generative import Samples
from train.evals.perplexity import Perplexity
from train.objectives.base import Context, LoaderSource, Objective, Stage
from train.objectives.reporting import Curve, Finished, Report, Result, judged


def next_token_terms(ctx: Context) -> tuple[Callable, Callable]:
    """(`weights`, `loss`) of next-token prediction, as of Stage; weighted by `loss_mask`.

    A mixture of experts has a second term, `router`, over all tokens.
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
        args = vocabulary.inputs(config, batch)
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


def build(ctx: Context, whole: bool = False) -> Stage:
    """The stage of next-token prediction, for pretraining and for fine-tuning (`whole`, as of
    LoaderSource)."""
    weights, loss = next_token_terms(ctx)

    def evaluation(data: Data) -> Evaluation:
        return combined(Perplexity(ctx, data), Samples(ctx, data, ctx.config.evaluate))

    return Stage(weights, loss, LoaderSource(ctx, whole), evaluation)


CURVES = (Curve("loss", "nats a token", "nats_per_token", "loss"),)


def _pretrain_result(run: Finished, values: Mapping, report: Mapping) -> Result | None:
    if "bits_per_byte" not in values:
        return None
    return Result(
        "pretraining",
        f"{values['bits_per_byte']:.2f} bits per byte",
        "lower is better",
        "The information that the model needs to encode each byte of text it has never seen. "
        "Without any knowledge it would be 8.",
    )


PRETRAIN = Objective(
    schema="text",
    trainable=("policy",),
    build=build,
    origins={"policy": ("policy",)},
    report=Report(
        lambda run: {"bits_per_byte": run.metric("bits_per_byte")}, _pretrain_result, CURVES
    ),
)


def _sft_numbers(run: Finished) -> dict:
    return {
        "response_loss": run.metric("loss"),
        "response_loss_pretrained": run.metric("loss", first=True),
    }


def _sft_result(run: Finished, values: Mapping, report: Mapping) -> Result | None:
    if "response_loss" not in values:
        return None
    loss, before = values["response_loss"], values.get("response_loss_pretrained")
    headline, verdict = f"response loss {loss:.2f}", ("", "")
    choice = f"a choice among {math.exp(loss):,.1f} tokens"
    if before is not None:
        headline = f"response loss {before:.2f} → {loss:.2f}"
        choice += f"; before this stage, among {math.exp(before):,.1f}"
        doubts = [] if loss < before else ["the held-out loss did not fall"]
        verdict = judged(doubts, "the held-out loss fell")
    return Result(
        "fine-tuning",
        headline,
        "lower is better",
        "Surprise, in nats a token, at the reference answers to held-out questions. The "
        f"model is now as unsure of each token as in {choice}.",
        *verdict,
    )


SFT = Objective(
    schema="chat",
    trainable=("policy",),
    build=functools.partial(build, whole=True),
    origins={"policy": ("policy",)},
    report=Report(_sft_numbers, _sft_result, CURVES),
)
