"""Sampling and scoring of answers to prompts on the mesh, for rollouts and evaluations.

Axes: B episodes, P prompt length (left padded), R response length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import quantized, sharding, weights
from model.decoding import refill
from model.generate import Sampling, generate
from ranges import ConfigError
from tpu.chips import compiler_options
from train.rl.scoring import Scorer


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


def placed(prompts: Mapping[str, Any], groups: Groups | None) -> tuple[Mapping[str, Any], int]:
    """(This process's prompts as rows that it places, number of answers to each row)."""
    if groups is None:
        return prompts, 1
    return {name: x[groups.rows] for name, x in prompts.items()}, groups.samples


def references(
    prompts: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], samples: int
) -> list[str]:
    """The reference of each answer to rows of prompts, `samples` a row; "" for none."""
    indices = np.repeat(prompts["example"], samples)
    return [examples[i].get("answer", "") if examples else "" for i in indices]


class Sampler(Scorer):
    """Samples and scores answers on the mesh, for rollouts and evaluations."""

    def __init__(self, ctx: Any):
        super().__init__(ctx)
        self.sampling = Sampling(
            self.rl.response_length,
            self.rl.temperature,
            stop_ids=ctx.tokenizer.stop_ids if self.rl.stop_at_eos else (),
            pad_id=ctx.tokenizer.pad_id,
        )
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
            self._sample, static_argnums=(5, 6), out_shardings=decoded, compiler_options=options
        )
        self._to_int8: Callable[[Any], Any] | None = None

    def _sample(self, policy, prompts, mask, key, first_row, samples=1, int8_cache=False):
        rows = first_row + jnp.arange(len(prompts) * samples)
        keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
        config = self.ctx.models["policy"]
        sampling = dataclasses.replace(self.sampling, samples=samples, int8_cache=int8_cache)
        if 0 < (slots := self.rl.slots) < len(rows):
            self._check_slots(samples)
            widths = self.rl.prompt_buckets
            sample = refill.generate(config, policy, prompts, mask, keys, sampling, slots, widths)
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
        int8_cache: bool = False,
    ) -> dict[str, jax.Array]:
        """Samples `samples` answers to each prompt, in the order [prompt, sample].

        Row i of them is row `first_row` + i of the run: its random draws depend only on key and
        row, not on the batch or the mesh.

        Args:
          policy: parameters, or those of `int8_weights`.

        Returns:
          {`tokens`, `positions`, `segment_ids`: [B, P + R], `response_mask`, `sampler_logprobs`:
          [B, R]}.
        """
        tokens, mask, settings = prompts["tokens"], prompts["mask"], (samples, int8_cache)
        if self.rl.decode_tensor == 1:
            return self.generate(policy, tokens, mask, key, first_row, *settings)
        policy = self.decoding(policy)
        tokens, mask = jax.device_put((tokens, mask), sharding.batch_sharding(self.mesh))
        key = jax.device_put(key, sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            batch = self.generate(policy, tokens, mask, key, first_row, *settings)
        return jax.device_put(batch, sharding.batch_sharding(self.ctx.mesh))

    def int8_weights(self, policy: Mapping[str, Any]) -> Any:
        """The policy with the matrices of its layers in int8."""
        if self._to_int8 is None:
            places = jax.tree.map(lambda x: x.sharding, self.abstract_int8(policy))
            self._to_int8 = jax.jit(quantized.int8_weights, out_shardings=places)
        return self._to_int8(policy)

    @staticmethod
    def abstract_int8(policy: Mapping[str, Any]) -> Any:
        """`int8_weights` for arrays or shapes with shardings."""
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), policy
        )
        return quantized.convert(shapes, "int8")

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
        prompts, samples = placed(prompts, groups)
        answers = references(prompts, examples, samples)
        on_mesh = sharding.put_batch(prompts, self.ctx.mesh)
        batch = self.sample(policy, on_mesh, key, np.int32(first_row), samples)
        return batch, self.rewards(frozen, batch, answers)


@partial(jax.jit, static_argnums=1)
def cast_weights(params: Mapping[str, Any], dtype: Any) -> Any:
    """Parameters with their matrices cast to `dtype`; norms, a router and scales are unchanged."""

    def cast(path, x):
        name = getattr(path[-1], "key", "")
        return x.astype(dtype) if weights.read_in_activation_dtype(name) else x

    return jax.tree_util.tree_map_with_path(cast, params)
