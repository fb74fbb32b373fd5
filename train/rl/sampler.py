"""Answers to prompts and their scores, on the mesh; used by rollouts and by evaluation.

Axes: B episodes, P prompt length (left padded), R response length.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import sharding, weights
from model.generate import Sampling, generate
from tpu.chips import compiler_options
from train.rl import rewards
from train.runtime.metrics import console


def place(tokens, prompt_mask, response_mask):
    """Positions and segment ids of [prompt | response] rows, both [B, P + R] int32."""
    valid = jnp.concatenate([prompt_mask, response_mask.astype(bool)], axis=1)
    count = jnp.cumsum(valid.astype(jnp.int32), axis=1)
    return jnp.maximum(count - 1, 0), valid.astype(jnp.int32)


class Groups(NamedTuple):
    """How a batch's prompts are placed to be answered several times each.

    Attributes:
      prompts: [k] int, which of the batch's prompts this process reads.
      index: [m] int, of which of these k each row is that it places.
      samples: answers a row.
    """

    prompts: np.ndarray
    index: np.ndarray
    samples: int


def groups(mesh, answers: int, group: int) -> Groups:
    """Of `answers` answers, `group` to a prompt, in the order [prompt, answer].

    A prompt is read once for its group, or a few times where the mesh divides a batch into more
    parts than there are prompts.
    """
    prompts, shards = answers // group, sharding.batch_shards(mesh)
    readings = next(n for n in range(1, group + 1) if group % n == 0 and prompts * n % shards == 0)
    local = sharding.local_rows(mesh, prompts * readings)
    return Groups(*np.unique(local // readings, return_inverse=True), group // readings)


class Sampler:
    """Samples and scores answers on the mesh; used by rollouts and by evaluation."""

    def __init__(self, ctx):
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
                "to sample as the mesh trains"
            ) from None
        decoded = sharding.batch_sharding(self.mesh)
        options = dict(compiler_options=compiler_options(ctx.mesh.devices.flat[0]))
        self.generate = jax.jit(self._sample, static_argnums=5, out_shardings=decoded, **options)
        self.score_rows = jax.jit(
            self._reward_model, static_argnums=0, out_shardings=out, **options
        )
        self.weights = rewards.weights(ctx.config)
        self.verifiers = rewards.verifiers(ctx.config)
        self._skips = ctx.config.rewards.on_error == "skip"
        self._most_errors = ctx.config.rewards.max_errors * self._skips
        self._said = set()
        examples = [*ctx.data.train_examples, *ctx.data.heldout_examples]
        rewards.check_answers(ctx.config, [e.get("answer", "") for e in examples])

    def _sample(self, policy, prompts, mask, key, first_row, samples=1):
        rows = first_row + jnp.arange(len(prompts) * samples)
        keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
        config, sampling = (
            self.ctx.models["policy"],
            dataclasses.replace(self.sampling, samples=samples),
        )
        sample = generate(config, policy, prompts, mask, keys, sampling)
        mask = jnp.repeat(mask, samples, axis=0)
        # Prompts may come without the padding that all of them have.
        wider = (0, 0), (self.rl.prompt_length - prompts.shape[1], 0)
        tokens = jnp.pad(sample.tokens, wider, constant_values=self.sampling.pad_id)
        positions, segment_ids = place(tokens, jnp.pad(mask, wider), sample.response_mask)
        return {
            "tokens": tokens,
            "positions": positions,
            "segment_ids": segment_ids,
            "response_mask": sample.response_mask.astype(jnp.float32),
            "sampler_logprobs": sample.logprobs,
        }

    def sample(self, policy, prompts, key, first_row, samples: int = 1):
        """`samples` answers a prompt, in the order [prompt, sample]. Row i of these is row
        `first_row` + i of the run: its draws depend on (key, row) alone, not on the batch or the
        mesh it is in."""
        tokens, mask = prompts["tokens"], prompts["mask"]
        if self.rl.decode_tensor == 1:
            return self.generate(policy, tokens, mask, key, first_row, samples)
        policy = self.decoding(policy)
        tokens, mask = jax.device_put((tokens, mask), sharding.batch_sharding(self.mesh))
        key = jax.device_put(key, sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            batch = self.generate(policy, tokens, mask, key, first_row, samples)
        return jax.device_put(batch, sharding.batch_sharding(self.ctx.mesh))

    def decoding(self, policy):
        """The policy's weights as decoding holds them: in the activations' dtype, and split over
        heads, mlp and vocabulary of the decoding mesh alone."""
        small = cast_weights(policy, self.ctx.models["policy"].activation_dtype)
        return jax.device_put(small, sharding.decoding_shardings(small, self.mesh))

    def abstract_decoding(self, policy):
        """The same of shapes with shardings."""
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

    def score(self, frozen, batch, role: str = "reward"):
        """A reward model's raw scores, [B] float32."""
        return self.score_rows(self.ctx.models[role], frozen[role], batch)

    def rewards(self, frozen, batch, answers):
        """{name: raw scores [B] float32} of every reward that counts, and `score`, their weighted
        sum; of an answer that is left out (`rewards.on_error=skip`) the score is not finite.

        Args:
          answers: references of this process's rows of the batch, "" where there is none.

        Raises:
          RewardError: in all processes alike, for more answers than may be left out.
        """
        found, failures = {}, {}
        if "model" in self.weights:
            found["model"] = self.score(frozen, batch)
        if self.verifiers:
            # Rows in the order of this process's slice of the batch: each host scores its own.
            episodes = self._episodes(batch, answers)
            for name, function in self.verifiers.items():
                values, failed = self._call(function, episodes)
                found[name] = sharding.put_batch(values, self.ctx.mesh)
                failures |= {row: (name, failure) for row, failure in failed.items()}
        score = sum(weight * found[name] for name, weight in self.weights.items())
        found["score"] = jnp.where(jnp.abs(score) <= rewards.LARGEST, score, jnp.inf)
        self.check_scores(found, batch, failures)
        return found

    def sample_and_score(self, policy, frozen, prompts, examples, key, first_row, groups=None):
        """(batch of `sample`, scores of `rewards`) of answers to this process's prompts.

        Args:
          prompts: numpy arrays [k, …], with `example`, the index of each prompt's example.
          examples: may have an `answer`, the reference that verifiers compare with.
          key, first_row: as in `sample`.
          groups: `Groups` of `prompts`; by default each is answered once.
        """
        samples = 1
        if groups:
            prompts = {name: x[groups.index] for name, x in prompts.items()}
            samples = groups.samples
        asked = np.repeat(prompts["example"], samples)
        answers = [examples[i].get("answer", "") if examples else "" for i in asked]
        placed = sharding.put_batch(prompts, self.ctx.mesh)
        batch = self.sample(policy, placed, key, np.int32(first_row), samples)
        return batch, self.rewards(frozen, batch, answers)

    def fetch(self, tree):
        """A tree of arrays on the host, whole on every process."""
        return jax.device_get(jax.device_put(tree, sharding.replicated(self.ctx.mesh)))

    def _episodes(self, batch, answers):
        tokens, segments, mask = (
            _local_rows(batch[n]) for n in ("tokens", "segment_ids", "response_mask")
        )
        P = tokens.shape[1] - mask.shape[1]
        rows = tokens, segments[:, :P] > 0, mask > 0, answers
        return rewards.episodes(self.ctx.tokenizer, *rows)

    def _call(self, function, episodes):
        """(a function's rewards, NaN where there is none, {row: what was wrong})."""
        values, failures = np.full(len(episodes), np.nan, np.float32), {}
        for row, episode in enumerate(episodes):
            value = rewards.call(function, episode)
            if not isinstance(value, rewards.Failure):
                values[row] = value
                continue
            failures[row] = value
            if not self._most_errors:  # one ends the run
                break
        return values, failures

    def check_scores(self, found, batch, failures=None) -> None:
        """Answers with a reward that is not finite are few enough to be left out, and said once.

        Args:
          found: {name: [B]}. failures: {this process's row: (name, what was wrong)}, of functions.

        Raises:
          RewardError: they are not.
        """
        found = self.fetch(found)
        bad = ~np.all([np.isfinite(values) for values in found.values()], axis=0)
        if not bad.any():
            return
        message, error = self._first_failure(found, batch, failures or {}, bad)
        if bad.mean() > self._most_errors:
            if self._skips:
                message = (
                    f"{bad.sum()} of {len(bad)} answers have no reward, more than the share "
                    f"rewards.max_errors={self._most_errors:g}; the first: {message}"
                )
            else:
                message += (
                    f". A reward is one finite number, {rewards.LARGEST:g} at most; "
                    "--config.rewards.on_error=skip leaves out answers that have none"
                )
            raise rewards.RewardError(message) from error
        if self._said.isdisjoint(found):
            self._said |= found.keys()
            console.print(f"  left out, with others like it: {message}", markup=False)

    def _first_failure(self, found, batch, failures, bad):
        """(text, exception or None) of the first answer of this process without a reward."""
        of, local = self.ctx.config, _local_index(batch["tokens"])
        row = next((i for i in range(len(local)) if bad[local[i]]), None)
        if row is None:
            return "an answer that another process scored has no reward", None
        name, value = next(
            (n, x[local[row]]) for n, x in found.items() if not np.isfinite(x[local[row]])
        )
        failure = rewards.Failure(f"gave {value}")
        if row in failures:
            name, failure = failures[row]
        names = {
            "model": f"the reward model {of.init_from.get('reward')}",
            "judge": f"the judge {of.init_from.get('judge')}",
            "function": f"rl.reward_function={of.rl.reward_function}",
            "score": "the weighted sum of the rewards",
        }
        episode = self._episodes(batch, [""] * len(local))[row]
        said = rewards.shown(episode.response), rewards.shown(episode.prompt)
        text = f"{names.get(name, f'rewards.{name}')} {failure.text} for the answer {said[0]}"
        return f"{text} to the prompt {said[1]}", failure.error


@partial(jax.jit, static_argnums=1)
def cast_weights(params, dtype):
    """The matrices in the dtype they are read in; norms, a router and scales stay as they are."""

    def cast(path, x):
        name = getattr(path[-1], "key", "")
        return x.astype(dtype) if weights.read_in_activation_dtype(name) else x

    return jax.tree_util.tree_map_with_path(cast, params)


def _local_shards(x):
    """[(first row, rows)] that this process holds of an array sharded by row alone (replicas once),
    in order."""
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return [(start, np.asarray(shards[start].data)) for start in sorted(shards)]


def _local_rows(x) -> np.ndarray:
    return np.concatenate([rows for _, rows in _local_shards(x)])


def _local_index(x) -> np.ndarray:
    """Which rows of all those of `_local_rows` are."""
    return np.concatenate([start + np.arange(len(rows)) for start, rows in _local_shards(x)])
