"""Sampling and scoring of answers to prompts on the mesh, for rollouts and evaluations.

Axes: B episodes, P prompt length (left padded), R response length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import sharding, weights
from model.decoding import refill
from model.generate import Sampling, generate
from ranges import ConfigError
from tpu.chips import compiler_options
from train.rl import rewards
from train.rl.rewards import Failure
from train.terminal.console import console


def place(
    tokens: jax.Array, prompt_mask: jax.Array | np.ndarray, response_mask: jax.Array | np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Positions and segment ids of [prompt | response] rows, both [B, P + R] int32."""
    valid = jnp.concatenate([prompt_mask, response_mask.astype(bool)], axis=1)
    count = jnp.cumsum(valid.astype(jnp.int32), axis=1)
    return jnp.maximum(count - 1, 0), valid.astype(jnp.int32)


class Groups(NamedTuple):
    """The placement of a batch's prompts, of which each is answered several times.

    Attributes:
      prompts: [k] int, the batch's prompts that this process reads.
      rows: [m] int, the one of these k prompts in each row that this process places.
      samples: number of answers to each row.
    """

    prompts: np.ndarray
    rows: np.ndarray
    samples: int


def groups(mesh: jax.sharding.Mesh, answers: int, group: int) -> Groups:
    """The placement of prompts for `answers` answers, `group` to each, ordered [prompt, answer].

    A prompt has one row for its group, or a few if the mesh has more batch shards than there are
    prompts.
    """
    prompts, shards = answers // group, sharding.batch_shards(mesh)
    copies = next(n for n in range(1, group + 1) if group % n == 0 and prompts * n % shards == 0)
    local = sharding.local_rows(mesh, prompts * copies)
    return Groups(*np.unique(local // copies, return_inverse=True), group // copies)


class Sampler:
    """Samples and scores answers on the mesh, for rollouts and evaluations."""

    def __init__(self, ctx: Any):
        self.ctx, self.rl = ctx, ctx.config.rl
        self.sampling = Sampling(
            self.rl.response_length,
            self.rl.temperature,
            stop_ids=ctx.tokenizer.stop_ids if self.rl.stop_at_eos else (),
            pad_id=ctx.tokenizer.pad_id,
        )
        out = sharding.batch_sharding(ctx.mesh)
        try:
            self.mesh = sharding.decoding_mesh(ctx.mesh, self.rl.decode_tensor)
        except sharding.ShardingError as e:
            raise sharding.ShardingError(
                f"rl.decode_tensor={self.rl.decode_tensor}: {e}; set --config.rl.decode_tensor=1 "
                "to sample on the mesh of training"
            ) from None
        decoded = sharding.batch_sharding(self.mesh)
        options = compiler_options(ctx.mesh.devices.flat[0])
        self.generate = jax.jit(
            self._sample, static_argnums=5, out_shardings=decoded, compiler_options=options
        )
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

    def _sample(self, policy, prompts, mask, key, first_row, samples=1):
        rows = first_row + jnp.arange(len(prompts) * samples)
        keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
        config, sampling = (
            self.ctx.models["policy"],
            dataclasses.replace(self.sampling, samples=samples),
        )
        if 0 < (slots := self.rl.slots) < len(rows):
            self._check_slots(samples)
            sample = refill.generate(config, policy, prompts, mask, keys, sampling, slots)
        else:
            sample = generate(config, policy, prompts, mask, keys, sampling)
        mask = jnp.repeat(mask, samples, axis=0)
        # The padding that all prompts of a batch share may have been cut off (`prompt_buckets`).
        padding = (0, 0), (self.rl.prompt_length - prompts.shape[1], 0)
        tokens = jnp.pad(sample.tokens, padding, constant_values=self.sampling.pad_id)
        positions, segment_ids = place(tokens, jnp.pad(mask, padding), sample.response_mask)
        return {
            "tokens": tokens,
            "positions": positions,
            "segment_ids": segment_ids,
            "response_mask": sample.response_mask.astype(jnp.float32),
            "sampler_logprobs": sample.logprobs,
        }

    def _check_slots(self, samples):
        """Checks that a batch shard's slots hold the answers to a prompt, which begin together."""
        slots, shards = self.rl.slots, sharding.batch_shards(self.mesh)
        if slots < samples * shards:
            raise ConfigError(
                f"rl.slots={slots} on {shards} batch shards are fewer than the {samples} answers "
                f"to a prompt for each; set --config.rl.slots={samples * shards} or more"
            )

    def sample(
        self,
        policy: Mapping[str, Any],
        prompts: Mapping[str, Any],
        key: jax.Array,
        first_row: Any,
        samples: int = 1,
    ) -> dict[str, jax.Array]:
        """Samples `samples` answers to each prompt, in the order [prompt, sample].

        Row i of them is row `first_row` + i of the run: its random draws depend only on key and
        row, not on the batch or the mesh.

        Returns:
          {`tokens`, `positions`, `segment_ids`: [B, P + R], `response_mask`, `sampler_logprobs`:
          [B, R]}.
        """
        tokens, mask = prompts["tokens"], prompts["mask"]
        if self.rl.decode_tensor == 1:
            return self.generate(policy, tokens, mask, key, first_row, samples)
        policy = self.decoding(policy)
        tokens, mask = jax.device_put((tokens, mask), sharding.batch_sharding(self.mesh))
        key = jax.device_put(key, sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            batch = self.generate(policy, tokens, mask, key, first_row, samples)
        return jax.device_put(batch, sharding.batch_sharding(self.ctx.mesh))

    def decoding(self, policy: Mapping[str, Any]) -> Any:
        """The policy's weights for decoding: in the activations' dtype, sharded only over heads,
        mlp and vocabulary on the decoding mesh."""
        small = cast_weights(policy, self.ctx.models["policy"].activation_dtype)
        return jax.device_put(small, sharding.decoding_shardings(small, self.mesh))

    def abstract_decoding(self, policy: Mapping[str, Any]) -> Any:
        """`decoding` for shapes with shardings."""
        small = jax.eval_shape(cast_weights, policy, self.ctx.models["policy"].activation_dtype)
        places = sharding.decoding_shardings(policy, self.mesh)
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), small, places
        )

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
        self, frozen: Mapping[str, Any], batch: Mapping[str, jax.Array], answers: Sequence[str]
    ) -> dict[str, jax.Array]:
        """{name: raw scores [B] float32} of every reward with a weight, and `score`, their weighted
        sum, which is not finite for an answer that is skipped (`rewards.on_error=skip`).

        Args:
          answers: references of this process's rows of the batch, "" for none.

        Raises:
          RewardError: in all processes, if more answers fail than may be skipped.
        """
        scores: dict[str, jax.Array] = {}
        failures: dict[int, tuple[str, Failure]] = {}
        if "model" in self.weights:
            scores["model"] = self.score(frozen, batch)
        if self.verifiers:
            # Each host scores its own rows, in the order of its slice of the batch.
            episodes = self._episodes(batch, answers)
            for name, function in self.verifiers.items():
                values, failed = self._call(function, episodes)
                scores[name] = sharding.put_batch(values, self.ctx.mesh)
                failures |= {row: (name, failure) for row, failure in failed.items()}
        score = sum(weight * scores[name] for name, weight in self.weights.items())
        scores["score"] = jnp.where(jnp.abs(score) <= rewards.LARGEST, score, jnp.inf)
        self.check_scores(scores, batch, failures)
        return scores

    def sample_and_score(
        self,
        policy: Mapping[str, Any],
        frozen: Mapping[str, Any],
        prompts: Mapping[str, Any],
        examples: Sequence[Mapping[str, Any]],
        key: jax.Array,
        first_row: Any,
        groups: Groups | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(the batch of `sample`, the scores of `rewards`) of answers to this process's prompts.

        Args:
          prompts: numpy arrays [k, …], with `example`, the index of each prompt's example.
          examples: dicts that may have an `answer`, the reference that verifiers compare with.
          key, first_row: as in `sample`.
          groups: the placement of `prompts`; by default each is answered once.
        """
        samples = 1
        if groups:
            prompts = {name: x[groups.rows] for name, x in prompts.items()}
            samples = groups.samples
        indices = np.repeat(prompts["example"], samples)
        answers = [examples[i].get("answer", "") if examples else "" for i in indices]
        placed = sharding.put_batch(prompts, self.ctx.mesh)
        batch = self.sample(policy, placed, key, np.int32(first_row), samples)
        return batch, self.rewards(frozen, batch, answers)

    def fetch(self, tree: Any) -> Any:
        """A tree of arrays copied to the host, whole on every process."""
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
          scores: {name: [B]}. failures: {this process's row: (name, Failure)} of functions.

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
        config, local = self.ctx.config, _local_index(batch["tokens"])
        row = next((i for i in range(len(local)) if bad[local[i]]), None)
        if row is None:
            return "an answer that another process scored has no reward", None
        name, value = next(
            (n, x[local[row]]) for n, x in scores.items() if not np.isfinite(x[local[row]])
        )
        failure = Failure(f"gave {value}")
        if row in failures:
            name, failure = failures[row]
        names = {
            "model": f"the reward model {config.init_from.get('reward')}",
            "judge": f"the judge {config.init_from.get('judge')}",
            "function": f"rl.reward_function={config.rl.reward_function}",
            "score": "the weighted sum of the rewards",
        }
        episode = self._episodes(batch, [""] * len(local))[row]
        response, prompt = map(rewards.short_repr, (episode.response, episode.prompt))
        text = f"{names.get(name, f'rewards.{name}')} {failure.text} for the answer {response}"
        return f"{text} to the prompt {prompt}", failure.error


@partial(jax.jit, static_argnums=1)
def cast_weights(params: Mapping[str, Any], dtype: Any) -> Any:
    """Parameters with their matrices cast to `dtype`; norms, a router and scales are unchanged."""

    def cast(path, x):
        name = getattr(path[-1], "key", "")
        return x.astype(dtype) if weights.read_in_activation_dtype(name) else x

    return jax.tree_util.tree_map_with_path(cast, params)


def _local_shards(x):
    """[(first row, rows)] of this process's shards, in order, of an array that is sharded only by
    row; replicas are listed once."""
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return [(start, np.asarray(shards[start].data)) for start in sorted(shards)]


def _local_rows(x) -> np.ndarray:
    """This process's rows of a sharded array."""
    return np.concatenate([rows for _, rows in _local_shards(x)])


def _local_index(x) -> np.ndarray:
    """The indices of `_local_rows` among all rows."""
    return np.concatenate([start + np.arange(len(rows)) for start, rows in _local_shards(x)])
