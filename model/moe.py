"""Mixtures of experts: each token goes through the MLPs of the few experts that the router picks.

No token is dropped: rows are sorted by expert and multiplied group by group
(`jax.lax.ragged_dot`). Experts are spread over the mesh axis `expert`, as the batch is: the tokens
of all devices of that axis are gathered, each device computes what its experts have to do with
them, and the results go back to where the tokens came from.

Axes: B batch, T length, D embed, F mlp, E experts, k experts a token, M tokens, R rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from model.config import TransformerConfig
from model.sharding import BATCH_AXES, batch_shards


class RouterStats(NamedTuple):
    """Sums over the real tokens of a batch, of which the router's losses are made.

    Attributes (each with a leading [L] when of all layers):
      chosen: [E] float32, how often each expert was picked.
      probability: [E] float32, what the router gave it.
      z: float32 scalar, of logsumexp(logits)².
    """

    chosen: jax.Array
    probability: jax.Array
    z: jax.Array


def route(config: TransformerConfig, logits, real):
    """The experts of each token.

    Args:
      logits: [B, T, E] float32. real: [B, T] bool, false on padding, which is routed but not
        counted.

    Returns:
      (ids [B, T, k] int32, weights [B, T, k] float32, RouterStats).
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    weights, ids = jax.lax.top_k(probabilities, config.experts_per_token)
    if config.renormalize_experts:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    picked = jnp.sum(ids[..., None] == jnp.arange(config.num_experts), axis=-2)  # [B, T, E]
    z = jax.nn.logsumexp(logits, axis=-1) ** 2
    stats = RouterStats(
        jnp.sum(jnp.where(real[..., None], picked, 0), axis=(0, 1)).astype(jnp.float32),
        jnp.sum(jnp.where(real[..., None], probabilities, 0.0), axis=(0, 1)),
        jnp.sum(jnp.where(real, z, 0.0)),
    )
    return ids, weights, stats


def expert_mlps(x, ids, weights, gate, up, down, first, activation):
    """The weighted sum of what the experts held here make of each token.

    Args:
      x: [M, D]; ids: [M, k] int32 over all experts; weights: [M, k] float32.
      gate, up: [n, D, F]; down: [n, F, D], of the experts first..first+n-1.
      activation: of the gate.

    Returns:
      [M, D] in x's dtype; 0 for a token that none of these experts has.
    """
    (M, k), n = ids.shape, gate.shape[0]
    here = ids.reshape(-1) - first
    here = jnp.where((here >= 0) & (here < n), here, n)
    # A token's experts differ, so this many rows hold whatever the router does.
    R = M * min(k, n)
    order = jnp.argsort(here)[:R]  # by expert, those of other devices last
    token = order // k
    sizes = jnp.sum(here[:, None] == jnp.arange(n), axis=0, dtype=jnp.int32)
    held = (jnp.arange(R) < jnp.sum(sizes))[:, None]
    # What ragged_dot leaves in rows beyond its groups is undefined, forward and backward.
    rows = jnp.where(held, x[token], 0)  # [R, D]
    h = activation(jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    out = jnp.where(held, jax.lax.ragged_dot(h, down, sizes), 0)
    out = out.astype(jnp.float32) * weights.reshape(-1)[order][:, None]
    return jnp.zeros(x.shape, jnp.float32).at[token].add(out).astype(x.dtype)


def experts(x, ids, weights, gate, up, down, activation, split_length: bool):
    """`expert_mlps` of all experts, wherever they are in the mesh in use.

    Args:
      x: [B, T, D]; ids, weights: [B, T, k]; gate, up: [E, D, F]; down: [E, F, D].
      split_length: T is split over the mesh axis `sequence`.

    Returns:
      [B, T, D].
    """
    B, D = x.shape[0], x.shape[-1]
    k = ids.shape[-1]
    mesh = jax.sharding.get_abstract_mesh()

    def flat(x, ids, weights):
        return x.reshape(-1, D), ids.reshape(-1, k), weights.reshape(-1, k)

    if mesh.empty:
        return expert_mlps(*flat(x, ids, weights), gate, up, down, 0, activation).reshape(x.shape)
    # Rows that the mesh does not divide (a last batch, a single prompt) every device has.
    split_rows = B % batch_shards(mesh) == 0

    def on_device(x, ids, weights, gate, up, down):
        tokens = flat(x, ids, weights)
        if split_rows:
            tokens = [jax.lax.all_gather(t, "expert", tiled=True) for t in tokens]
        first = jax.lax.axis_index("expert") * gate.shape[0]
        out = expert_mlps(*tokens, gate, up, down, first, activation)
        out = jax.lax.psum(out, "tensor")  # each has a part of F
        if split_rows:
            out = jax.lax.psum_scatter(out, "expert", tiled=True)
        else:
            out = jax.lax.psum(out, "expert")
        return out.reshape(x.shape)

    rows = P(BATCH_AXES if split_rows else None, "sequence" if split_length else None)
    return jax.shard_map(
        on_device,
        in_specs=(rows, rows, rows, P("expert", None, "tensor"), P("expert", None, "tensor"),
                  P("expert", "tensor")),
        out_specs=rows,
    )(x, ids, weights, gate, up, down)  # fmt: skip
