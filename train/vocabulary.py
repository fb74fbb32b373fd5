"""Losses of the vocabulary head, computed over chunks of positions (`map_logits` in
model/vocabulary.py), so that logits are never materialized whole.

Axes: B batch, T length, D embed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model import context_parallel
from model.config import TransformerConfig
from model.kernels.plain import CHUNK
from model.sharding import platform
from model.vocabulary import entropy, log_probs, map_logits, sum_targets
from train import losses


def inputs(
    config: TransformerConfig, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The tokens, positions and segment_ids [B, T] from which a batch of rows is predicted.

    On CPU they are [B, T - 1] where the last position, which predicts nothing, would be a chunk of
    attention by itself. A mixture's router counts all positions.
    """
    arrays = batch["tokens"], batch["positions"], batch["segment_ids"]
    T = arrays[0].shape[1]
    if platform() != "cpu" or T == 1 or T % CHUNK != 1:
        return arrays
    if config.num_experts or context_parallel.shards() > 1:
        return arrays
    tokens, positions, segment_ids = (x[:, :-1] for x in arrays)
    return tokens, positions, segment_ids


def _one_cpu() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return platform() == "cpu" and (mesh.empty or mesh.size == 1)


def next_token_loss(
    config: TransformerConfig,
    params: Mapping[str, Any],
    hidden: jax.Array,
    batch: Mapping[str, jax.Array],
    z_loss: float,
    chunk: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`losses.next_token_loss` of a batch of rows (data/batch.py), from their hidden states
    [B, T, D], or those of `inputs`."""
    mask = batch["loss_mask"][:, 1:]
    arrays = hidden[:, : mask.shape[1]], batch["tokens"][:, 1:], mask
    if not chunk and _one_cpu():

        def sums(logits, targets, mask):
            return losses.sum_nats(*losses.token_nats(logits, targets, mask), mask, z_loss)[:2]

        return *sum_targets(config, params, sums, *arrays), jnp.sum(mask)
    if platform() == "tpu":  # whose tiles T - 1 positions do not fill; the last one is masked
        mask = jnp.pad(mask, ((0, 0), (0, 1)))
        arrays = hidden, jnp.roll(batch["tokens"], -1, axis=1), mask
    nats, log_z = map_logits(config, params, losses.token_nats, chunk, *arrays)
    return losses.sum_nats(nats, log_z, mask, z_loss)


def token_logprobs(
    config: TransformerConfig,
    params: Mapping[str, Any],
    hidden: jax.Array,
    ids: jax.Array,
    temperature: float,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """(log π(ids), entropy) of the next-token distributions at `hidden`, both [B, T] float32."""

    def logprobs_and_entropy(logits, ids):
        return log_probs(logits, ids, temperature), entropy(logits, temperature)

    return map_logits(config, params, logprobs_and_entropy, chunk, hidden, ids)
