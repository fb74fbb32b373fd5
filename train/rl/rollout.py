"""The batch source of PPO and GRPO: prompts -> answers -> scores -> advantages -> minibatches.

A rollout is a batch of episodes, its "experience". The optimizer passes over it in permuted
minibatches for some epochs. It is part of the source's state, so a run can stop and resume at any
minibatch.

Axes: B episodes, P prompt length (left padded), R response length. An experience holds
`tokens, positions, segment_ids` [B, P + R]; `response_mask` [B, R], 1 through and including <eos>;
`old_logprobs, ref_logprobs, advantages` [B, R]; with a critic `old_values, returns` [B, R]; and
`policy_mask` [B, R], the response mask, or 0 where only the critic learns. Its rows are in the
order [prompt, group]: answers to one prompt are adjacent, until minibatches are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.loader import Loader, make_loader
from model import sharding
from tpu.chips import compiler_options
from train.guards.origins import BatchOrigin
from train.measures import statistics
from train.rl import advantages as adv
from train.rl import forward, hacking
from train.rl import record as records
from train.rl.experience import answers, make_experience, reward_means, shapes
from train.rl.sampler import Sampler, groups, placed, references
from train.rl.scoring import Verified, local_index
from train.terminal.progress import phase


class Draw(NamedTuple):
    """Answers to a batch of prompts, sampled or still being sampled.

    Attributes:
      parts: of `Sampler.sample`, in the order of their rows. number: of the batch of prompts.
      rollout: the number of rollouts before the one that the policy that samples them begins with.
    """

    parts: list[dict[str, jax.Array]]
    number: int
    rollout: int


class RolloutSource:
    """A source of minibatches of experience; samples a new rollout when the last one is used up.
    Each minibatch has its batch of the text that is mixed in, where there is text.

    State: `experience` (above); `minibatch`, the number of its epochs × minibatches used so far;
    `rollout`, the number of rollouts so far; `drawn`, the number of batches of prompts so far;
    `kl_coef`; the score's `gain` and `bias`, 1 and 0 until scores differ; `stopped`, the number of
    this experience's updates that the early stop on KL has skipped (train/step.py counts them);
    `first`, the first rollout's metrics that warnings compare with (train/rl/hacking.py); and with
    `rl.rollouts_ahead` = k > 0 `ahead`, the answers that are in flight: `count` of them, and of the
    first so many of k `batch` {"0": of `Sampler.sample`, …}, and the `number` and `rollout` of a
    `Draw`.

    Args:
      advantages_of: `advantages.Episodes` -> (advantages [B, R], {name: [B, R]} of further arrays
        of the experience, {metric: number}).
      group: number of answers to each prompt. draws: the most draws of prompts for a rollout,
        repeated until no group's scores are all equal. critic_warmup: number of rollouts that do
        not train the policy.
    """

    def __init__(
        self,
        ctx: Any,
        sampler: Sampler,
        advantages_of: Callable[[adv.Episodes], tuple],
        group: int = 1,
        draws: int = 1,
        critic_warmup: int = 0,
    ):
        self.ctx, self.rl, self.sampler = ctx, ctx.config.rl, sampler
        self.group, self.draws, self.critic_warmup = group, draws, critic_warmup
        n, size = self.rl.rollout_batch, ctx.config.data.batch_size
        self.minibatches = n // size
        self.per_rollout = self.rl.epochs * self.minibatches
        self.key = jax.random.key(ctx.config.seed + 1)
        self.critic = any(role in ctx.models for role in forward.CRITICS)
        self._warned: set[str] = set()  # each warning is given once per process
        self.size = self.rl.answers_at_once  # of a part of a draw
        self.parts = n // self.size
        seed, self.groups = ctx.config.seed, groups(ctx.mesh, self.size, self.group)
        count, local = self.size // self.group, self.groups.prompts
        self.prompts = make_loader(ctx.config.data, ctx.data, count, seed, lambda size: local)
        rows = sharding.batch_sharding(ctx.mesh)
        self.make_experience = jax.jit(
            partial(make_experience, ctx, advantages_of),
            out_shardings=(rows, None, None),
            compiler_options=compiler_options(ctx.mesh.devices.flat[0]),
        )
        # One program: sums that are dispatched one by one beside others have hung on CPU devices.
        self._reward_means = jax.jit(reward_means)
        self._minibatch = jax.jit(self._take, out_shardings=rows)
        # A zero with the sharding of the step's counters, so that the step is compiled once.
        self._zero = jax.jit(lambda: jnp.int32(0), out_shardings=sharding.replicated(ctx.mesh))
        self._pick = jax.jit(
            lambda first, second, index: jax.tree.map(
                lambda a, b: jnp.concatenate([a, b])[index], first, second
            ),
            out_shardings=rows,
        )
        self._join = jax.jit(
            lambda *parts: jax.tree.map(lambda *x: jnp.concatenate(x), *parts), out_shardings=rows
        )
        self._text: Loader | None = None
        if self.rl.pretrain_coef:
            text = ctx.config.pretrain_data
            self._text = make_loader(
                text, ctx.pretrain_data, text.batch_size, seed,
                partial(sharding.local_rows, ctx.mesh), ctx.config.steps,
            )  # fmt: skip

    def batch_shapes(self, s: Mapping[str, Any]) -> dict[str, Any]:
        text = self._text and {"text": sharding.put_batch(self._text.batch(0), self.ctx.mesh)}
        return {**shapes(self.ctx, self.ctx.config.data.batch_size), **(text or {})}

    def init(self) -> dict[str, Any]:
        """The state before the first rollout: an experience of zeros, marked as used up."""
        empty = shapes(self.ctx, self.rl.rollout_batch)
        gain, bias = self.ctx.normalizer or (1, 0)
        zeros = jax.jit(
            lambda: {name: jnp.zeros(x.shape, x.dtype) for name, x in empty.items()},
            out_shardings=sharding.batch_sharding(self.ctx.mesh),
        )
        ahead = range(self.rl.rollouts_ahead)
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
            **self._saved([Draw([answers(zeros())], 0, 0) for _ in ahead], 0),
        }

    def _saved(self, draws, count):
        """{`ahead`: the state of draws that are in flight}; empty where none ever are."""
        if not self.rl.rollouts_ahead:
            return {}
        ahead = {
            "count": np.asarray(count, np.int32),
            "batch": {str(i): draw.parts[0] for i, draw in enumerate(draws)},
            "number": np.asarray([draw.number for draw in draws], np.int32),
            "rollout": np.asarray([draw.rollout for draw in draws], np.int32),
        }
        return {"ahead": ahead}

    def _in_flight(self, s):
        """The draws of a state that are in flight, the oldest first."""
        if not self.rl.rollouts_ahead:
            return []
        ahead = s["ahead"]
        return [
            Draw([ahead["batch"][str(i)]], int(ahead["number"][i]), int(ahead["rollout"][i]))
            for i in range(int(ahead["count"]))
        ]

    def _take(self, experience, rollout, minibatch):
        """The rows of one minibatch; every epoch has its own permutation."""
        epoch, part = minibatch // self.minibatches, minibatch % self.minibatches
        order, size = self._order(rollout, epoch), self.ctx.config.data.batch_size
        index = jax.lax.dynamic_slice(order, (part * size,), (size,))
        return jax.tree.map(lambda x: x[index], experience)

    def _order(self, rollout, epoch):
        """The rows of a rollout, from 1, in the order of an epoch."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, rollout), epoch)
        return jax.random.permutation(key, self.rl.rollout_batch)

    def _updates(self, rollout: int) -> np.ndarray:
        """The updates of a rollout that take each of its rows, from 1: [B, epochs] int."""
        size, updates = self.ctx.config.data.batch_size, []
        for epoch in range(self.rl.epochs):
            order = np.asarray(self._order(rollout, epoch))
            updates.append(1 + epoch * self.minibatches + np.argsort(order) // size)
        return np.stack(updates, axis=1)

    def _width(self, part: int) -> int:
        """The width of all hosts' prompts of a part: one of `rl.prompt_buckets`."""
        P, buckets = self.rl.prompt_length, self.rl.prompt_buckets
        if buckets == 1 or self.rl.slots:  # slots are refilled with prompts of any of the widths
            return P
        count = self.size // self.group
        rows = self.prompts.index(part * count + np.arange(count))
        longest = np.max(np.sum(self.ctx.data.train["mask"][rows], axis=1))
        return next(w for i in range(buckets) if (w := -(-P * (i + 1) // buckets)) >= longest)

    def _start(self, policy, number: int) -> list[dict[str, jax.Array]]:
        """Starts to sample answers to the `number`-th batch of prompts, in the order
        [prompt, group], and returns their parts without waiting for them."""
        if self.rl.int8_weights:
            policy = self.sampler.int8_weights(policy)
        parts = []
        for part in range(number * self.parts, (number + 1) * self.parts):
            prompts, samples = placed(self.prompts.batch(part), self.groups)
            padding = self.rl.prompt_length - self._width(part)
            cut = {name: prompts[name][:, padding:] for name in ("tokens", "mask")}
            on_mesh, first_row = sharding.put_batch(cut, self.ctx.mesh), np.int32(part * self.size)
            args = policy, on_mesh, self.key, first_row, samples, self.rl.int8_cache
            parts.append(self.sampler.sample(*args))
        return parts

    def _score(self, frozen, parts, number: int):
        """(answers, rewards) of the parts of the `number`-th draw. Hosts score a part while the
        devices sample the next, and what was started after it."""
        first_row = number * self.rl.rollout_batch
        if len(parts) == 1:
            (batch,) = parts
            return batch, self.sampler.rewards(frozen, batch, self._references(batch, first_row))
        scores, failures = [], {}
        for start, part in zip(range(0, self.rl.rollout_batch, self.size), parts, strict=True):
            verified = self.sampler.verify(part, self._references(part, first_row + start))
            scores.append(verified.scores)
            failures |= {start + row: failure for row, failure in verified.failures.items()}
        batch, verified = self._join(*parts), Verified(self._join(*scores), failures)
        return batch, self.sampler.rewards(frozen, batch, (), verified)

    def _references(self, batch, first_row: int) -> list[str]:
        """The references of this process's rows of answers, of which the first is row `first_row`
        of the run; "" for none."""
        prompts = (first_row + local_index(batch["tokens"])) // self.group
        rows, data = self.prompts.index(prompts), self.ctx.data
        return references({"example": data.train["example"][rows]}, data.train_examples, 1)

    def _unequal(self, rewards):
        """Mask of the groups whose scores are not all equal, the same on every host."""
        groups = self.sampler.fetch(rewards["score"]).reshape(-1, self.group)
        return np.asarray(adv.varies(groups, np.isfinite(groups), axis=1))

    def _sample(self, policy, frozen, s: Mapping[str, Any]):
        """((answers, rewards) of a rollout, its first draw, the parts of the state s that change).

        `rl.rollouts_ahead` draws stay in flight. Groups of equal scores are replaced by groups of
        further draws of the current policy, up to `draws`.
        """
        number, drawn, in_flight = int(s["rollout"]), int(s["drawn"]), self._in_flight(s)
        while len(in_flight) <= self.rl.rollouts_ahead:
            parts = self._start(policy, drawn)
            if self.rl.rollouts_ahead and len(parts) > 1:
                parts = [self._join(*parts)]
            in_flight.append(Draw(parts, drawn, number))
            drawn += 1
        draw, *in_flight = in_flight
        sample = self._score(frozen, draw.parts, draw.number)
        for _ in range(self.draws - 1):
            good = self._unequal(sample[1])
            if good.all():
                break
            other = self._score(frozen, self._start(policy, drawn), drawn)
            drawn += 1
            groups = np.arange(len(good))  # indices into the groups of both draws
            new = len(good) + np.flatnonzero(self._unequal(other[1]))
            bad = np.flatnonzero(~good)[: len(new)]
            groups[bad] = new[: len(bad)]
            rows = (groups[:, None] * self.group + np.arange(self.group)).reshape(-1)
            sample = self._pick(sample, other, rows)
        changes = {"drawn": np.asarray(drawn, np.int32)}
        return sample, draw, changes | self._saved(in_flight, len(in_flight))

    @phase("sampling answers")
    def rollout(
        self, state: Any, frozen: Mapping[str, Any], s: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Samples a new experience.

        Returns:
          (the state s with it, metrics); the metric `warnings` is a list of texts, and `record` a
          `record.Rollout`, if this one is to be recorded (`rl.record`). `rollout/staleness`, with
          `rl.rollouts_ahead`, is the number of updates since the policy that sampled the answers.
        """
        start = time.perf_counter()
        number = int(s["rollout"])
        (batch, rewards), draw, sampled = self._sample(state.trainable["policy"], frozen, s)
        draws = int(sampled["drawn"]) - int(s["drawn"])
        scalars = {k: s[k] for k in ("kl_coef", "gain", "bias", "rollout")}
        roles = {**state.trainable, "reference": frozen["reference"]}
        metrics: dict[str, Any]
        experience, scalars, metrics = self.make_experience(
            roles,
            batch,
            rewards["score"],
            scalars,
            np.bool_(number >= self.critic_warmup),
        )
        metrics |= self._reward_means(rewards)
        metrics = {k: float(v) for k, v in statistics.fetch(metrics).items()}
        current = {k: metrics[k] for k in ("length", "repetition", "entropy")}
        first = current if number == 0 else {k: float(v) for k, v in s["first"].items()}
        signs = hacking.signs(first, current) | hacking.no_lesson(metrics)
        metrics |= {"warnings": len(signs), "stopped": int(s["stopped"])}
        metrics["no_lesson"] = int("scores" in signs)
        metrics = {f"rollout/{k}": v for k, v in metrics.items()}
        metrics["warnings"] = [text for name, text in signs.items() if name not in self._warned]
        self._warned |= signs.keys()
        seconds = time.perf_counter() - start
        metrics["rollout/seconds"] = seconds
        metrics["rollout/draws"] = draws
        if self.rl.rollouts_ahead:
            metrics["rollout/staleness"] = (number - draw.rollout) * self.per_rollout
        tokens = metrics["rollout/length"] * self.rl.rollout_batch * draws
        metrics["rollout/tokens_per_second"] = tokens / seconds
        if self.rl.record and number % self.rl.record == 0:
            updates = self._updates(number + 1)
            metrics["record"] = records.Rollout(number, batch, rewards, experience, updates)
        s = statistics.fetch(scalars) | {
            "experience": experience,
            "minibatch": np.asarray(0, np.int32),
            "rollout": np.asarray(number + 1, np.int32),
            "stopped": self._zero(),
            "first": {k: np.asarray(v, np.float32) for k, v in first.items()},
            **sampled,
        }
        return s, metrics

    def next(
        self, state: Any, frozen: Mapping[str, Any], s: dict[str, Any], step: int
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """(the minibatch of `step`, the state after it, metrics if it needed a new rollout)."""
        metrics = {}
        if self.rollouts(s, 1):
            s, metrics = self.rollout(state, frozen, s)
        batch = self._minibatch(s["experience"], s["rollout"], s["minibatch"])
        del step
        if self._text:
            text = self._text.batch(self._minibatches(s["rollout"], s["minibatch"]))
            batch["text"] = sharding.put_batch(text, self.ctx.mesh)
        return batch, s | {"minibatch": s["minibatch"] + np.int32(1)}, metrics

    def _minibatches(self, rollout, minibatch) -> int:
        """The number of minibatches before one: the number of the batch of text beside it."""
        return (int(rollout) - 1) * self.per_rollout + int(minibatch)

    def rollouts(self, s: dict[str, Any], steps: int) -> int:
        """The number of rollouts that the next `steps` steps need."""
        left = self.per_rollout - int(s["minibatch"])
        return -(-max(steps - left, 0) // self.per_rollout)

    def progress(self, s: dict[str, Any]) -> dict[str, float]:
        """{metric: value} of how far the prompts were read, by source (`Loader.progress`); and,
        named `pretrain_…`, the text beside the minibatches."""
        values = self.prompts.progress(int(s["drawn"]) * self.parts)
        if self._text:
            read = self._text.progress(self._minibatches(s["rollout"], s["minibatch"]))
            values |= {f"pretrain_{name}": value for name, value in read.items()}
        return values

    def examples(self, s: dict[str, Any], steps: int) -> int:
        """The answers in the last `steps` minibatches; each epoch takes one again."""
        del s
        return steps * self.ctx.config.data.batch_size

    def place(self, s: dict[str, Any]) -> dict[str, Any]:
        """The place of a state, with the first rollout's metrics, which a run that goes back to its
        start has not yet."""
        counts = {name: int(s[name]) for name in ("rollout", "drawn", "minibatch")}
        return counts | {"first": {name: float(x) for name, x in s["first"].items()}}

    def origins(self, place: Mapping[str, Any]) -> list[BatchOrigin]:
        """The prompts of the rollout at a place, of all draws that it may have taken, and the text
        beside the last minibatch."""
        drawn, data = place["drawn"], self.ctx.data
        first = max(drawn - self.draws * (1 + self.rl.rollouts_ahead), 0)
        parts = range(first * self.parts, drawn * self.parts)
        origins = [BatchOrigin.of("prompts", n, self.prompts, data) for n in parts]
        if self._text:
            number = self._minibatches(place["rollout"], place["minibatch"]) - 1
            origins.append(BatchOrigin.of("text", number, self._text, self.ctx.pretrain_data))
        return origins

    def past(
        self, s: dict[str, Any], place: Mapping[str, Any], steps: int
    ) -> tuple[dict[str, Any], str]:
        """A state that samples a new rollout, from the prompts after a place."""
        if self._text:
            self._text.require(place["rollout"] * self.per_rollout + steps)
        if self.rl.rollouts_ahead:  # what is in flight is of prompts before the place
            s = s | {"ahead": {**s["ahead"], "count": np.asarray(0, np.int32)}}
        s = s | {
            "minibatch": np.asarray(self.per_rollout, np.int32),
            "rollout": np.asarray(place["rollout"], np.int32),
            "drawn": np.asarray(place["drawn"], np.int32),
            "stopped": self._zero(),
            "first": {name: np.asarray(x, np.float32) for name, x in place["first"].items()},
        }
        return s, f"the prompts up to rollout {place['rollout']}"
