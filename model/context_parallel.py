"""Rows split over the mesh axis `sequence`, so that causal attention loads all shards equally.

For n shards, a row of T tokens is 2n runs of T/2n consecutive tokens; shard i holds runs i and
2n-1-i (the zigzag order of Brandon et al. 2023, arXiv:2311.09431, and Llama 3, arXiv:2407.21783).
Keys and values are gathered, in their order in the row, a layer at a time; everything else stays
split. Only the layers see this order: tokens are reordered before them, hidden states back after.

Axes: B batch, T length, D embed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from model.sharding import ACTIVATION_AXES, ShardingError, constrain, partition_spec

AXIS = "sequence"


def shards() -> int:
    """Shards of a row on the current mesh (`jax.set_mesh`); 1 without one."""
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def order(length: int, count: int) -> np.ndarray:
    """[count, length / count] int32: the indices in the row of the tokens that each shard holds.

    Raises:
      ShardingError: the length is not a multiple of 2·count.
    """
    if count == 1:
        return np.arange(length, dtype=np.int32)[None]
    if length % (2 * count):
        raise ShardingError(
            f"rows of {length} tokens do not split into 2 × mesh.sequence = {2 * count} runs; "
            f"change the length (data.length, or that of prompt and response together) to a "
            f"multiple of {2 * count}, or set mesh.sequence=1"
        )
    runs = np.arange(length, dtype=np.int32).reshape(2 * count, -1)
    return np.concatenate([runs[:count], runs[: count - 1 : -1]], axis=1)


def split(x: jax.Array) -> jax.Array:
    """[B, T] in the row's order -> [B, T] in the shards' order, split over them."""
    indices = order(x.shape[1], shards()).reshape(-1)
    return constrain(jnp.take(x, indices, axis=1), "act_batch", "act_length")


def join(x: jax.Array) -> jax.Array:
    """[B, T, D] in the shards' order -> in the row's, split over the shards: the inverse of
    `split`."""
    count = shards()
    names = ("act_batch", "act_length", "act_embed")
    spec = partition_spec(names, ACTIVATION_AXES)

    # A shard with runs i and 2n-1-i has one even and one odd run; in the row's order every shard
    # has an even run and then an odd one. So the even runs are one permutation, the odd another.
    def swap(x):
        first, second = jnp.split(x, 2, axis=1)
        is_even = jax.lax.axis_index(AXIS) % 2 == 0
        even, odd = jnp.where(is_even, first, second), jnp.where(is_even, second, first)
        even_runs = [(i if i % 2 == 0 else 2 * count - 1 - i) for i in range(count)]
        even = jax.lax.ppermute(even, AXIS, [(i, run // 2) for i, run in enumerate(even_runs)])
        odd_runs = [2 * count - 1 - run for run in even_runs]
        odd = jax.lax.ppermute(odd, AXIS, [(i, run // 2) for i, run in enumerate(odd_runs)])
        return jnp.concatenate([even, odd], axis=1)

    return jax.shard_map(swap, in_specs=spec, out_specs=spec)(x)


def gather(x: jax.Array) -> jax.Array:
    """[B, T / n, …] of a shard -> [B, T, …] in the row's order; called inside `shard_map`."""
    runs = jnp.stack(jnp.split(x, 2, axis=1))  # [2, B, T / 2n, …]
    runs = jax.lax.all_gather(runs, AXIS)  # [n, 2, B, T / 2n, …]
    runs = jnp.concatenate([runs[:, 0], runs[::-1, 1]])  # [2n, B, T / 2n, …]
    return jnp.moveaxis(runs, 0, 1).reshape(x.shape[0], -1, *x.shape[2:])
