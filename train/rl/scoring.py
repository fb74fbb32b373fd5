"""Scores of answers on the mesh: a reward model's, and those of functions on the hosts.

Axes: B episodes, P prompt length (left padded), R response length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import sharding
from tpu.chips import compiler_options
from train.rl import rewards
from train.rl.rewards import Failure
from train.terminal.console import console


class Verified(NamedTuple):
    """Rewards that ran on the host.

    Attributes:
      scores: {name: [B] float32}. failures: {row of this process: (name, Failure)}.
    """

    scores: Mapping[str, jax.Array]
    failures: Mapping[int, tuple[str, Failure]]


class Scorer:
    """Scores answers with the rewards of a run."""

    def __init__(self, ctx: Any):
        self.ctx, self.rl = ctx, ctx.config.rl
        out = sharding.batch_sharding(ctx.mesh)
        options = compiler_options(ctx.mesh.devices.flat[0])
        self.score_rows = jax.jit(
            self._reward_model, static_argnums=0, out_shardings=out, compiler_options=options
        )
        self.weights = rewards.weights(ctx.config)
        self.verifiers = rewards.verifiers(ctx.config)
        self._skips = ctx.config.rewards.on_error == "skip"
        self._max_errors = ctx.config.rewards.max_errors * self._skips
        self._timeout = ctx.config.rewards.timeout
        self._reported: set[str] = set()  # rewards whose failures have been reported
        examples = [*ctx.data.train_examples, *ctx.data.heldout_examples]
        rewards.validate_answers(ctx.config, [e.get("answer", "") for e in examples])

    def _reward_model(self, config, params, batch):
        P = batch["tokens"].shape[1] - self.rl.response_length
        end = P - 1 + jnp.sum(batch["response_mask"], axis=1).astype(jnp.int32)
        args = batch["tokens"], batch["positions"], batch["segment_ids"]
        return rewards.score(config, params, *args, jnp.full_like(end, P), end)

    def score(
        self, frozen: Mapping[str, Any], batch: Mapping[str, jax.Array], role: str = "reward"
    ) -> jax.Array:
        """A reward model's raw scores, [B] float32."""
        return self.score_rows(self.ctx.models[role], frozen[role], batch)

    def rewards(
        self,
        frozen: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        answers: Sequence[str],
        verified: Verified | None = None,
    ) -> dict[str, jax.Array]:
        """{name: raw scores [B] float32} of every reward with a weight, and `score`, their weighted
        sum, which is not finite for an answer that is skipped (`rewards.on_error=skip`).

        Args:
          answers: references of this process's rows of the batch, "" for none.
          verified: of `verify`, where that is done.

        Raises:
          RewardError: in all processes, if more answers fail than may be skipped.
        """
        scores: dict[str, jax.Array] = {}
        if "model" in self.weights:  # before those of the host, which then run beside it
            scores["model"] = self.score(frozen, batch)
        verified = verified or self.verify(batch, answers)
        scores |= verified.scores
        score = sum(weight * scores[name] for name, weight in self.weights.items())
        scores["score"] = jnp.where(jnp.abs(score) <= rewards.LARGEST, score, jnp.inf)
        self.check_scores(scores, batch, verified.failures)
        return scores

    def verify(self, batch: Mapping[str, jax.Array], answers: Sequence[str]) -> Verified:
        """The rewards that run on the host: verifiers and the reward function.

        It waits for this batch alone, not for programs that were started after its own.

        Args:
          answers: as in `rewards`.
        """
        scores, failures = {}, {}
        if self.verifiers:
            # Each host scores its own rows, in the order of its slice of the batch.
            episodes, rows = self._episodes(batch, answers), local_index(batch["tokens"])
            for name, function in self.verifiers.items():
                values, failed = self._call(function, episodes)
                scores[name] = sharding.put_batch(values, self.ctx.mesh)
                failures |= {int(rows[i]): (name, failure) for i, failure in failed.items()}
        return Verified(scores, failures)

    def fetch(self, tree: Any) -> Any:
        """A tree of arrays copied to the host, whole on every process."""
        if all(x.is_fully_addressable for x in jax.tree.leaves(tree)):
            return jax.tree.map(np.asarray, tree)
        return jax.device_get(jax.device_put(tree, sharding.replicated(self.ctx.mesh)))

    def _episodes(self, batch, answers):
        tokens, segments, mask = (
            _local_rows(batch[n]) for n in ("tokens", "segment_ids", "response_mask")
        )
        P = tokens.shape[1] - mask.shape[1]
        rows = tokens, segments[:, :P] > 0, mask > 0, answers
        return rewards.episodes(self.ctx.tokenizer, *rows)

    def _call(self, function, episodes):
        """(a function's rewards, NaN where it failed, {row: its Failure})."""
        values, failures = np.full(len(episodes), np.nan, np.float32), {}
        for row, episode in enumerate(episodes):
            value = rewards.call(function, episode, self._timeout)
            if not isinstance(value, Failure):
                values[row] = value
                continue
            failures[row] = value
            if not self._max_errors:  # the first failure ends the run
                break
        return values, failures

    def check_scores(
        self,
        scores: Mapping[str, jax.Array],
        batch: Mapping[str, jax.Array],
        failures: Mapping[int, tuple[str, Failure]] | None = None,
    ) -> None:
        """Checks that few enough answers have a reward that is not finite to be skipped, and
        reports the first of them once.

        Args:
          scores: {name: [B]}. failures: {row: (name, Failure)} of functions, this process's.

        Raises:
          RewardError: too many answers have none.
        """
        scores = self.fetch(scores)
        bad = ~np.all([np.isfinite(values) for values in scores.values()], axis=0)
        if not bad.any():
            return
        message, error = self._first_failure(scores, batch, failures or {}, bad)
        if bad.mean() > self._max_errors:
            if self._skips:
                message = (
                    f"{bad.sum()} of {len(bad)} answers have no reward, more than the share "
                    f"rewards.max_errors={self._max_errors:g}; the first: {message}"
                )
            else:
                message += (
                    f". A reward is one finite number, {rewards.LARGEST:g} at most; "
                    "--config.rewards.on_error=skip skips answers that have none"
                )
            raise rewards.RewardError(message) from error
        if self._reported.isdisjoint(scores):
            self._reported |= scores.keys()
            console.print(f"  skipped, with others like it: {message}")

    def _first_failure(self, scores, batch, failures, bad):
        """(message, exception or None) of this process's first answer without a reward."""
        config, local = self.ctx.config, local_index(batch["tokens"])
        index = next((i for i in range(len(local)) if bad[local[i]]), None)
        if index is None:
            return "an answer that another process scored has no reward", None
        row = int(local[index])
        name, value = next((n, x[row]) for n, x in scores.items() if not np.isfinite(x[row]))
        failure = Failure(f"gave {value}")
        if row in failures:
            name, failure = failures[row]
        names = {
            "model": f"the reward model {config.init_from.get('reward')}",
            "judge": f"the judge {config.init_from.get('judge')}",
            "function": f"rl.reward_function={config.rl.reward_function}",
            "score": "the weighted sum of the rewards",
        }
        episode = self._episodes(batch, [""] * len(local))[index]
        response, prompt = map(rewards.short_repr, (episode.response, episode.prompt))
        text = f"{names.get(name, f'rewards.{name}')} {failure.text} for the answer {response}"
        return f"{text} to the prompt {prompt}", failure.error


def _local_shards(x):
    """[(first row, rows)] of this process's shards, in order, of an array that is sharded only by
    row; replicas are listed once."""
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return [(start, np.asarray(shards[start].data)) for start in sorted(shards)]


def _local_rows(x) -> np.ndarray:
    """This process's rows of a sharded array."""
    return np.concatenate([rows for _, rows in _local_shards(x)])


def local_index(x: jax.Array) -> np.ndarray:
    """The indices of `_local_rows` among all rows. Does not wait for them."""
    indices = x.sharding.addressable_devices_indices_map(x.shape)
    return np.unique(
        np.concatenate([np.arange(len(x))[index[0]] for index in indices.values() if index])
    )
