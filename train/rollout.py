"""The PPO source: prompts -> answers -> scores -> advantages -> minibatches.

A rollout is a batch of episodes ("experience"); it is worked through in permuted minibatches for
some epochs, and lives in the source's state, so that a run stops and resumes at any minibatch.

Axes: B episodes, P prompt length (left padded), R response length. An experience holds, over
[B, P + R], `tokens, positions, segment_ids`, and over [B, R] `response_mask` (1 through and
including <eos>), `old_logprobs, ref_logprobs, old_values, advantages, returns`, and
`policy_mask`, the response mask or 0 while only the critic learns.
"""

from __future__ import annotations

import functools
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import Loader
from model import sharding
from model.heads import value_model
from model.transformer import Transformer
from train import advantages as adv
from train.losses import kl_estimate
from train.sampler import Sampler
from train.step import split_microbatches
from train.vocabulary import token_logprobs


def response_logprobs(config, params, batch, response_length: int, temperature: float, chunk: int):
    """(log-probabilities of the response's tokens, entropies of the distributions that they were
    drawn from), both [B, R] float32."""
    args = batch["tokens"], batch["positions"], batch["segment_ids"]
    hidden, _ = Transformer(config).apply({"params": params}, *args, method=Transformer.hidden)
    before = hidden[:, -response_length - 1 : -1]  # token t is predicted from the one before
    ids = batch["tokens"][:, -response_length:]
    return token_logprobs(config, params, before, ids, temperature, chunk)


def response_values(config, params, batch, response_length: int):
    """The critic's value before each response token, [B, R] float32."""
    args = batch["tokens"], batch["positions"], batch["segment_ids"]
    return value_model(config).apply({"params": params}, *args)[:, -response_length - 1 : -1]


def by_rows(function, batch, rows: int):
    """function(batch) in equal parts of at most `rows` rows, so that logits are never whole."""
    total = len(jax.tree.leaves(batch)[0])
    if total <= rows:
        return function(batch)
    count = next(n for n in range(-(-total // rows), total + 1) if total % n == 0)
    out = jax.lax.map(function, split_microbatches(batch, count))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(total, *x.shape[2:]), out)


def make_experience(ctx, policy, value, reference, batch, scores, s, train_policy):
    """Everything an update needs of a rollout, and what to log of it. Traced under `jit`.

    Args:
      batch: of `Sampler.sample`. scores: [B] raw. s: the source's scalars (`RolloutSource.init`).
      train_policy: bool scalar; false while the critic warms up.
    """
    ppo, R = ctx.config.ppo, ctx.config.ppo.response_length

    def forward(rows):
        settings = R, ppo.temperature, ctx.config.loss.chunk
        return {
            "old_logprobs": response_logprobs(ctx.models["policy"], policy, rows, *settings)[0],
            "ref_logprobs": response_logprobs(ctx.models["reference"], reference, rows, *settings)[
                0
            ],
            "old_values": response_values(ctx.models["value"], value, rows, R),
        }

    experience = dict(batch) | by_rows(forward, batch, ctx.config.data.batch_size)
    mask = experience["response_mask"]
    answer = experience["tokens"][:, -R:]
    stops = functools.reduce(jnp.logical_or, [answer == i for i in ctx.tokenizer.stop_ids])
    ended = jnp.sum(adv.last_token(mask) * stops, axis=1) > 0

    first = (s["rollout"] == 0) & ppo.normalize_scores
    std = jnp.maximum(jnp.std(scores, ddof=1), 1e-6)
    gain = jnp.where(first, 1 / std, s["gain"])
    bias = jnp.where(first, -jnp.mean(scores) / std, s["bias"])
    final = scores * gain + bias
    if ppo.score_clip:
        final = jnp.clip(final, -ppo.score_clip, ppo.score_clip)
    if ppo.missing_eos == "penalty":
        final = jnp.where(ended, final, final - ppo.missing_eos_value)
    elif ppo.missing_eos == "replace":
        final = jnp.where(ended, final, ppo.missing_eos_value)

    k1 = kl_estimate(experience["old_logprobs"], experience["ref_logprobs"])
    kl = kl_estimate(experience["old_logprobs"], experience["ref_logprobs"], ppo.kl_estimator)
    token_rewards = adv.token_rewards(final, kl, mask, s["kl_coef"])
    values = experience["old_values"]
    bootstrap = None
    if ppo.bootstrap_truncated:
        # The value after the last token is not computed; the one before it is the nearest known.
        bootstrap = jnp.where(ended, 0.0, jnp.sum(adv.last_token(mask) * values, axis=1))
    advantages, returns = adv.gae(token_rewards, values, mask, ppo.gamma, ppo.lam, bootstrap)
    experience["returns"] = returns
    experience["advantages"] = adv.whiten(advantages, mask) if ppo.whiten_advantages else advantages
    experience["policy_mask"] = jnp.where(train_policy, mask, 0.0)
    gap = jnp.abs(jnp.where(mask > 0, experience["old_logprobs"] - batch["sampler_logprobs"], 0))
    del experience["sampler_logprobs"]

    valid = jnp.sum(mask)

    def mean(x):
        return jnp.sum(jnp.where(mask > 0, x, 0.0)) / valid

    kl_sum = jnp.mean(jnp.sum(jnp.where(mask > 0, k1, 0.0), axis=1))
    error = jnp.where(mask > 0, returns - values, 0.0)
    variance = mean((returns - mean(returns)) ** 2)
    metrics = {
        "score": jnp.mean(scores),
        "score_std": jnp.std(scores, ddof=1),
        "score_normalized": jnp.mean(final),
        "reward": jnp.mean(jnp.sum(token_rewards, axis=1)),
        "kl": kl_sum,
        "kl_per_token": mean(k1),
        "kl_coef": s["kl_coef"],
        "length": jnp.mean(jnp.sum(mask, axis=1)),
        "eos_rate": jnp.mean(ended.astype(jnp.float32)),
        "return_mean": mean(returns),
        "return_std": jnp.sqrt(variance),
        "explained_variance": 1 - mean((error - mean(error)) ** 2) / jnp.maximum(variance, 1e-8),
        "logprob_gap_max": jnp.max(gap),
        "logprob_gap_mean": mean(gap),
    }
    kl_coef = s["kl_coef"]
    if ppo.kl_target:
        kl_coef = adv.adaptive_kl(
            kl_coef, kl_sum, ppo.kl_target, ppo.kl_horizon, len(experience["tokens"])
        )
    return experience, {"gain": gain, "bias": bias, "kl_coef": kl_coef}, metrics


class RolloutSource:
    """Yields minibatches of experience; rolls out anew when the last was used up.

    State: `experience` (above), `minibatch` (how many of its epochs × minibatches were used),
    `rollout` (how many were made: also the prompt cursor), `kl_coef`, and the score's `gain` and
    `bias`.
    """

    def __init__(self, ctx, sampler: Sampler):
        self.ctx, self.ppo, self.sampler = ctx, ctx.config.ppo, sampler
        n, size = self.ppo.rollout_batch, ctx.config.data.batch_size
        self.minibatches = n // size
        self.per_rollout = self.ppo.epochs * self.minibatches
        self.key = jax.random.key(ctx.config.seed + 1)
        self.prompts = Loader(
            ctx.data.train, n, ctx.config.seed, jax.process_index(), jax.process_count()
        )
        rows = sharding.batch_sharding(ctx.mesh)
        self._experience = jax.jit(partial(make_experience, ctx), out_shardings=(rows, None, None))
        self._minibatch = jax.jit(self._take, out_shardings=rows)
        self._text = None
        if self.ppo.pretrain_coef:
            self._text = Loader(
                ctx.pretrain_rows, ctx.config.pretrain_data.batch_size, ctx.config.seed,
                jax.process_index(), jax.process_count(),
            )  # fmt: skip

    def init(self):
        """The state before the first rollout: an experience of zeros, used up."""
        n, R = self.ppo.rollout_batch, self.ppo.response_length
        wide = (n, self.ppo.prompt_length + R)
        shapes = {name: (wide, jnp.int32) for name in ("tokens", "positions", "segment_ids")}
        names = ("response_mask", "old_logprobs", "ref_logprobs", "old_values", "advantages",
                 "returns", "policy_mask")  # fmt: skip
        shapes |= {name: ((n, R), jnp.float32) for name in names}
        rows = sharding.batch_sharding(self.ctx.mesh)
        zeros = jax.jit(
            lambda: {name: jnp.zeros(*shape) for name, shape in shapes.items()}, out_shardings=rows
        )
        return {
            "experience": zeros(),
            "minibatch": np.asarray(self.per_rollout, np.int32),
            "rollout": np.asarray(0, np.int32),
            "kl_coef": np.asarray(self.ppo.kl_coef, np.float32),
            "gain": np.asarray(1, np.float32),
            "bias": np.asarray(0, np.float32),
        }

    def _take(self, experience, rollout, minibatch):
        """Rows of one minibatch: every epoch has a permutation of its own."""
        epoch, part = minibatch // self.minibatches, minibatch % self.minibatches
        key = jax.random.fold_in(jax.random.fold_in(self.key, rollout), epoch)
        order = jax.random.permutation(key, self.ppo.rollout_batch)
        size = self.ctx.config.data.batch_size
        index = jax.lax.dynamic_slice(order, (part * size,), (size,))
        return jax.tree.map(lambda x: x[index], experience)

    def rollout(self, state, frozen, s):
        """A new experience. Returns (s, metrics)."""
        start = time.perf_counter()
        number = int(s["rollout"])
        prompts = sharding.put_batch(self.prompts.batch(number), self.ctx.mesh)
        first_row = np.int32(number * self.ppo.rollout_batch)
        batch = self.sampler.sample(state.trainable["policy"], prompts, self.key, first_row)
        scores = self.sampler.score(frozen, batch)
        scalars = {k: s[k] for k in ("kl_coef", "gain", "bias", "rollout")}
        experience, scalars, metrics = self._experience(
            state.trainable["policy"], state.trainable["value"], frozen["reference"],
            batch, scores, scalars, np.bool_(number >= self.ppo.critic_warmup),
        )  # fmt: skip
        metrics = {f"rollout/{k}": float(v) for k, v in metrics.items()}
        seconds = time.perf_counter() - start
        metrics["rollout/seconds"] = seconds
        tokens = metrics["rollout/length"] * self.ppo.rollout_batch
        metrics["rollout/tokens_per_second"] = tokens / seconds
        s = {k: np.asarray(v) for k, v in scalars.items()} | {
            "experience": experience,
            "minibatch": np.asarray(0, np.int32),
            "rollout": np.asarray(number + 1, np.int32),
        }
        return s, metrics

    def next(self, state, frozen, s, step: int):
        """The minibatch of `step`, the state after it, and metrics if it took a new rollout."""
        metrics = {}
        if int(s["minibatch"]) == self.per_rollout:
            s, metrics = self.rollout(state, frozen, s)
        batch = self._minibatch(s["experience"], s["rollout"], s["minibatch"])
        if self._text:
            text = self._text.batch(step)
            batch["text"] = sharding.put_batch(text, self.ctx.mesh)
        return batch, s | {"minibatch": s["minibatch"] + np.int32(1)}, metrics
