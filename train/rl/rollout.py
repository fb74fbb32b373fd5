"""The source of PPO and GRPO: prompts -> answers -> scores -> advantages -> minibatches.

A rollout is a batch of episodes ("experience"); it is worked through in permuted minibatches for
some epochs, and lives in the source's state, so that a run stops and resumes at any minibatch.

Axes: B episodes, P prompt length (left padded), R response length. An experience holds, over
[B, P + R], `tokens, positions, segment_ids`, and over [B, R] `response_mask` (1 through and
including <eos>), `old_logprobs, ref_logprobs, advantages`, with a critic `old_values, returns`, and
`policy_mask`, the response mask or 0 where only the critic learns. Its rows are ordered
[prompt, group]: answers to one prompt lie together until minibatches are drawn.
"""

from __future__ import annotations

import functools
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import make_loader
from model import context_parallel, sharding
from model.heads import ValueHead, value_model
from model.sharding import platform
from model.transformer import Transformer
from tpu.chips import compiler_options
from train.losses import kl_estimate
from train.rl import advantages as adv
from train.rl import hacking
from train.rl.sampler import Sampler, groups
from train.step import split_microbatches
from train.vocabulary import token_logprobs

# Trained roles that value answers: a network of its own, or a head on the policy.
CRITICS = ("value", "value_head")


def _inputs(batch):
    """Tokens, positions and segment ids; on CPU without the last token, which predicts none here.
    Kernels elsewhere, and the mesh axis `sequence`, want whole blocks of tokens."""
    end = -1 if platform() == "cpu" and context_parallel.shards() == 1 else None
    return [batch[name][:, :end] for name in ("tokens", "positions", "segment_ids")]


def _before_response(x, batch, response_length: int):
    """What a model gives [B, T or T - 1, …] before each token of the response."""
    start = batch["tokens"].shape[1] - response_length - 1
    return x[:, start : start + response_length]


def response_logprobs(
    config, params, batch, response_length: int, temperature: float, chunk: int, head=None
):
    """(log-probabilities of the response's tokens, entropies of the distributions that they were
    drawn from), both [B, R] float32; with the parameters of a `ValueHead` also its values."""
    args = _inputs(batch)
    hidden, _ = Transformer(config).apply({"params": params}, *args, method=Transformer.hidden)
    before = _before_response(hidden, batch, response_length)
    ids = batch["tokens"][:, -response_length:]
    found = token_logprobs(config, params, before, ids, temperature, chunk)
    return found if head is None else (*found, ValueHead(config).apply({"params": head}, before))


def response_values(config, params, batch, response_length: int):
    """The critic's value before each response token, [B, R] float32."""
    values = value_model(config).apply({"params": params}, *_inputs(batch))
    return _before_response(values, batch, response_length)


def policy_and_values(models, roles, batch, settings):
    """(log-probabilities, entropies, values or None) of answers, by the policy and its critic.

    Args:
      models, roles: {role: architecture}, {role: parameters}. settings: response_length,
        temperature and chunk of `response_logprobs`.
    """
    if "value_head" in roles:
        head = roles["value_head"]
        return response_logprobs(models["policy"], roles["policy"], batch, *settings, head)
    values = None
    if "value" in roles:
        values = response_values(models["value"], roles["value"], batch, settings[0])
    return *response_logprobs(models["policy"], roles["policy"], batch, *settings), values


def by_rows(function, batch, rows: int):
    """function(batch) in equal parts of at most `rows` rows, so that logits are never whole."""
    total = len(jax.tree.leaves(batch)[0])
    if total <= rows:
        return function(batch)
    count = next(n for n in range(-(-total // rows), total + 1) if total % n == 0)
    out = jax.lax.map(function, split_microbatches(batch, count))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(total, *x.shape[2:]), out)


def make_experience(ctx, advantages_of, roles, batch, scores, s, train_policy):
    """Everything an update needs of a rollout, and what to log of it. Traced under `jit`.

    Args:
      advantages_of: as of `RolloutSource`.
      roles: {role: parameters} of `policy`, `reference` and, of PPO, one of `CRITICS`.
      batch: of `Sampler.sample`. scores: [B] raw; an episode whose score is not finite is left
        out: masked wherever there is a mask. s: the source's scalars (`RolloutSource.init`).
      train_policy: bool scalar; false while the critic warms up.
    """
    rl, R = ctx.config.rl, ctx.config.rl.response_length
    settings = R, rl.temperature, ctx.config.loss.chunk

    def forward(rows):
        old, entropy, values = policy_and_values(ctx.models, roles, rows, settings)
        reference = ctx.models["reference"], roles["reference"]
        out = {"old_logprobs": old, "entropy": entropy}
        out["ref_logprobs"], _ = response_logprobs(*reference, rows, *settings)
        return out if values is None else out | {"old_values": values}

    experience = dict(batch) | by_rows(forward, batch, ctx.config.data.batch_size)
    entropy, sampler_logprobs = (experience.pop(k) for k in ("entropy", "sampler_logprobs"))
    valid, old = jnp.isfinite(scores), experience["old_logprobs"]
    mask = jnp.where(valid[:, None], experience["response_mask"], 0.0)
    experience["response_mask"], scores = mask, jnp.where(valid, scores, 0.0)
    length = jnp.sum(mask, axis=1)
    answer = experience["tokens"][:, -R:]
    stops = functools.reduce(jnp.logical_or, [answer == i for i in ctx.tokenizer.stop_ids])
    ended = jnp.sum(adv.last_token(mask) * stops, axis=1) > 0
    fit = rl.normalize_scores and ctx.normalizer is None
    final, scalars = adv.normalized(rl, scores, s, length, ended, fit, valid)

    k1 = kl_estimate(old, experience["ref_logprobs"])
    kl = kl_estimate(old, experience["ref_logprobs"], rl.kl_estimator)
    token_rewards = adv.token_rewards(final, kl, mask, s["kl_coef"])
    rewards = jnp.sum(token_rewards, axis=1)

    def mean(x):
        return adv.masked_mean(x, mask)

    def row_mean(x):
        return adv.moments(x, valid)[0]

    kl_sum = row_mean(jnp.sum(jnp.where(mask > 0, k1, 0.0), axis=1))
    gap = jnp.abs(jnp.where(mask > 0, old - sampler_logprobs, 0))
    metrics = {
        "score": row_mean(scores),
        "score_std": adv.moments(scores, valid)[1],
        "score_normalized": row_mean(final),
        "reward": row_mean(rewards),
        "reward_errors": jnp.sum(~valid),
        "kl": kl_sum,
        "kl_per_token": mean(k1),
        "kl_coef": s["kl_coef"],
        "entropy": mean(entropy),
        "repetition": row_mean(hacking.repetition(answer, mask)),
        "length": row_mean(length),
        "eos_rate": row_mean(ended.astype(jnp.float32)),
        "logprob_gap_max": jnp.max(gap),
        "logprob_gap_mean": mean(gap),
    }
    episodes = adv.Episodes(token_rewards, mask, scores, valid, ended, experience.get("old_values"))
    advantages, more, more_metrics = advantages_of(episodes)
    experience, metrics = experience | more, metrics | more_metrics
    if rl.importance_cap:
        # The loss is linear in an advantage, so this weighs a token's.
        likelier = jnp.exp(jnp.where(mask > 0, old - sampler_logprobs, 0.0))
        advantages = advantages * jnp.minimum(likelier, rl.importance_cap)
    experience["advantages"] = advantages
    teaches = train_policy & (ended if rl.missing_eos == "mask" else True)
    experience["policy_mask"] = jnp.where(jnp.reshape(teaches, (-1, 1)), mask, 0.0)

    kl_coef = s["kl_coef"]
    if rl.kl_target:
        count = jnp.sum(valid)
        kl_coef = adv.adaptive_kl(kl_coef, kl_sum, rl.kl_target, rl.kl_horizon, count)
    return experience, scalars | {"kl_coef": kl_coef}, metrics


class RolloutSource:
    """Yields minibatches of experience; rolls out anew when the last was used up.

    State: `experience` (above), `minibatch` (how many of its epochs × minibatches were used),
    `rollout` (how many were made), `drawn` (batches of prompts so far: the prompt cursor),
    `kl_coef`, the score's `gain` and `bias` (1 and 0 until scores differ), `stopped`, how many of
    this experience's updates the early stop on KL has left out (train/step.py counts them), and
    `first`, the first rollout's figures that warnings compare with (train/rl/hacking.py).

    Args:
      advantages_of: `advantages.Episodes` -> (advantages [B, R], {name: [B, R]} more to put into
        the experience, {metric: number}).
      group: answers to a prompt. draws: draws of prompts that a rollout can take until no group's
        scores are all equal. critic_warmup: rollouts that do not train the policy.
    """

    def __init__(
        self, ctx, sampler: Sampler, advantages_of, group: int = 1, draws: int = 1,
        critic_warmup: int = 0,
    ):  # fmt: skip
        self.ctx, self.rl, self.sampler = ctx, ctx.config.rl, sampler
        self.group, self.draws, self.critic_warmup = group, draws, critic_warmup
        n, size = self.rl.rollout_batch, ctx.config.data.batch_size
        self.minibatches = n // size
        self.per_rollout = self.rl.epochs * self.minibatches
        self.key = jax.random.key(ctx.config.seed + 1)
        self.critic = any(role in ctx.models for role in CRITICS)
        self._warned = set()  # said once a process
        seed, self.groups = ctx.config.seed, groups(ctx.mesh, n, self.group)
        count, local = n // self.group, self.groups.prompts
        self.prompts = make_loader(ctx.config.data, ctx.data, count, seed, local)
        rows = sharding.batch_sharding(ctx.mesh)
        self.make_experience = jax.jit(
            partial(make_experience, ctx, advantages_of),
            out_shardings=(rows, None, None),
            compiler_options=compiler_options(ctx.mesh.devices.flat[0]),
        )
        self._minibatch = jax.jit(self._take, out_shardings=rows)
        self._pick = jax.jit(
            lambda one, two, index: jax.tree.map(
                lambda a, b: jnp.concatenate([a, b])[index], one, two
            ),
            out_shardings=rows,
        )
        self._text = None
        if self.rl.pretrain_coef:
            text = ctx.config.pretrain_data
            local = sharding.local_rows(ctx.mesh, text.batch_size)
            self._text = make_loader(
                text, ctx.pretrain_data, text.batch_size, seed, local, ctx.config.steps
            )

    def shapes(self):
        """{name: `jax.ShapeDtypeStruct`} of an experience."""
        n, R = self.rl.rollout_batch, self.rl.response_length
        wide = (n, self.rl.prompt_length + R)
        shapes = {name: (wide, jnp.int32) for name in ("tokens", "positions", "segment_ids")}
        names = ["response_mask", "old_logprobs", "ref_logprobs", "advantages", "policy_mask"]
        names += ["old_values", "returns"] if self.critic else []
        shapes |= {name: ((n, R), jnp.float32) for name in names}
        rows = sharding.batch_sharding(self.ctx.mesh)
        return {k: jax.ShapeDtypeStruct(*shape, sharding=rows) for k, shape in shapes.items()}

    def init(self):
        """The state before the first rollout: an experience of zeros, used up."""
        shapes, (gain, bias) = self.shapes(), self.ctx.normalizer or (1, 0)
        zeros = jax.jit(
            lambda: {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()},
            out_shardings=sharding.batch_sharding(self.ctx.mesh),
        )
        return {
            "experience": zeros(),
            "minibatch": np.asarray(self.per_rollout, np.int32),
            "rollout": np.asarray(0, np.int32),
            "drawn": np.asarray(0, np.int32),
            "kl_coef": np.asarray(self.rl.kl_coef, np.float32),
            "gain": np.asarray(gain, np.float32),
            "bias": np.asarray(bias, np.float32),
            "stopped": self._zero(),
            "first": {k: np.asarray(0, np.float32) for k in ("length", "repetition", "entropy")},
        }

    def _zero(self):
        """Where the step's own counters are, so that it is compiled once."""
        return jax.device_put(jnp.int32(0), sharding.replicated(self.ctx.mesh))

    def _take(self, experience, rollout, minibatch):
        """Rows of one minibatch: every epoch has a permutation of its own."""
        epoch, part = minibatch // self.minibatches, minibatch % self.minibatches
        key = jax.random.fold_in(jax.random.fold_in(self.key, rollout), epoch)
        order = jax.random.permutation(key, self.rl.rollout_batch)
        size = self.ctx.config.data.batch_size
        index = jax.lax.dynamic_slice(order, (part * size,), (size,))
        return jax.tree.map(lambda x: x[index], experience)

    def _width(self, number: int) -> int:
        """Columns that hold the `number`-th prompts of all hosts: one of `rl.prompt_buckets`."""
        P, buckets = self.rl.prompt_length, self.rl.prompt_buckets
        if buckets == 1:
            return P
        count = self.rl.rollout_batch // self.group
        rows = self.prompts.index(number * count + np.arange(count))
        longest = np.max(np.sum(self.ctx.data.train["mask"][rows], axis=1))
        return next(w for i in range(buckets) if (w := -(-P * (i + 1) // buckets)) >= longest)

    def _draw(self, policy, frozen, number: int):
        """Answers to the `number`-th prompts and their rewards, in the order [prompt, group]."""
        prompts = self.prompts.batch(number)
        padding = self.rl.prompt_length - self._width(number)
        prompts |= {name: prompts[name][:, padding:] for name in ("tokens", "mask")}
        examples, first_row = self.ctx.data.train_examples, number * self.rl.rollout_batch
        return self.sampler.sample_and_score(
            policy, frozen, prompts, examples, self.key, first_row, self.groups
        )

    def _unequal(self, rewards):
        """Which groups have something to compare, on every host alike."""
        groups = self.sampler.fetch(rewards["score"]).reshape(-1, self.group)
        return np.asarray(adv.spread(groups, np.isfinite(groups), axis=1))

    def _sample(self, policy, frozen, drawn: int):
        """A rollout's (answers, rewards), and how many draws there were by then. Groups of equal
        scores give way to those of another draw, as long as draws are left."""
        sample = self._draw(policy, frozen, drawn)
        for number in range(drawn + 1, drawn + self.draws):
            good = self._unequal(sample[1])
            if good.all():
                return sample, number
            more = self._draw(policy, frozen, number)
            place = np.arange(len(good))
            new = len(good) + np.flatnonzero(self._unequal(more[1]))
            bad = np.flatnonzero(~good)[: len(new)]
            place[bad] = new[: len(bad)]
            rows = (place[:, None] * self.group + np.arange(self.group)).reshape(-1)
            sample = self._pick(sample, more, rows)
        return sample, drawn + self.draws

    def rollout(self, state, frozen, s):
        """A new experience. Returns (s, metrics); `warnings` among them is a list of texts."""
        start = time.perf_counter()
        number, drawn = int(s["rollout"]), int(s["drawn"])
        (batch, rewards), now_drawn = self._sample(state.trainable["policy"], frozen, drawn)
        scalars = {k: s[k] for k in ("kl_coef", "gain", "bias", "rollout")}
        roles = {**state.trainable, "reference": frozen["reference"]}
        experience, scalars, metrics = self.make_experience(
            roles,
            batch,
            rewards["score"],
            scalars,
            np.bool_(number >= self.critic_warmup),
        )
        valid = jnp.isfinite(rewards["score"])
        metrics |= {
            f"reward/{k}": adv.moments(v, valid)[0] for k, v in rewards.items() if k != "score"
        }
        metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}  # all at once
        now = {k: metrics[k] for k in ("length", "repetition", "entropy")}
        first = now if number == 0 else {k: float(v) for k, v in s["first"].items()}
        signs = hacking.signs(first, now) | hacking.no_lesson(metrics)
        metrics |= {"warnings": len(signs), "stopped": int(s["stopped"])}
        metrics["no_lesson"] = int("scores" in signs)
        metrics = {f"rollout/{k}": v for k, v in metrics.items()}
        metrics["warnings"] = [text for name, text in signs.items() if name not in self._warned]
        self._warned |= signs.keys()
        seconds = time.perf_counter() - start
        metrics["rollout/seconds"] = seconds
        metrics["rollout/draws"] = now_drawn - drawn
        tokens = metrics["rollout/length"] * self.rl.rollout_batch * (now_drawn - drawn)
        metrics["rollout/tokens_per_second"] = tokens / seconds
        s = {k: np.asarray(v) for k, v in scalars.items()} | {
            "experience": experience,
            "minibatch": np.asarray(0, np.int32),
            "rollout": np.asarray(number + 1, np.int32),
            "drawn": np.asarray(now_drawn, np.int32),
            "stopped": self._zero(),
            "first": {k: np.asarray(v, np.float32) for k, v in first.items()},
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

    def shares(self, s):
        """Of a mixture's sources in the prompts so far."""
        return self.prompts.shares(int(s["drawn"]))
