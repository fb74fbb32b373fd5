"""The vocabulary head: logits and log-probabilities, of whole rows or in chunks.

Float32 logits [B, T, V] are by far the largest array of a step: at 8,192 tokens and 128k ids one
row of them takes 4 GiB. `map_logits` computes `chunk` positions of each row at once, forwards and
backwards, so that the whole array never exists.

Axes: B batch, T length, D embed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from model import cpu
from model.config import TransformerConfig
from model.kernels import tpu
from model.kernels.base import MASKED
from model.sharding import constrain, platform


def logits(config: TransformerConfig, table: Array, hidden: Array, decoding: bool = False) -> Array:
    """[..., D] -> float32 [..., V] over the padded vocabulary; ids beyond it are `MASKED`.

    Args:
      table: the embedding [V, D] if `tie_embeddings`, else the unembedding [D, V].
      decoding: no gradient is taken, so a tied table is used without a transpose.
    """
    return _float32(config, _products(config, table, hidden, decoding))


def _products(config: TransformerConfig, table: Array, hidden: Array, decoding: bool) -> Array:
    """The products of `logits`, in the activations' dtype."""
    table = table.astype(config.activation_dtype)
    if config.tie_embeddings:
        table = cpu.TransposedWeight(table) if decoding else table.T
    return cpu.matmul(hidden, table)


def _float32(config: TransformerConfig, products: Array) -> Array:
    """`logits` from their products."""
    c = config
    logits = products.astype(jnp.float32)
    if c.width_ratio != 1:
        logits = logits / c.width_ratio
    if c.logit_softcap:
        logits = c.logit_softcap * jnp.tanh(logits / c.logit_softcap)
    if logits.ndim == 3:
        logits = constrain(logits, "act_batch", "act_length", "act_vocab")
    if c.padded_vocab_size == c.vocab_size:
        return logits
    return jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, logits, MASKED)


def log_probs(logits: Array, ids: Array, temperature: float) -> Array:
    """log softmax(logits / temperature) at `ids`, in float32: rollout and training both use this.

    Args:
      logits: [..., V]; ids: [...] int32; temperature: positive, no default on purpose: mixing two
        of them makes every KL wrong.
    """
    scaled = logits.astype(jnp.float32) / temperature
    if platform() == "tpu":
        return tpu.log_probs(scaled, ids)[0]
    picked = jnp.take_along_axis(scaled, ids[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(scaled, axis=-1)


def entropy(logits: Array, temperature: float = 1.0) -> Array:
    """Entropy in nats of softmax(logits / temperature), [..., V] -> [...] float32."""
    logp = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)
    return -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def map_logits(
    config: TransformerConfig, params: Mapping[str, Any], function: Callable, chunk: int,
    hidden: Array, *arrays: Array
) -> Any:  # fmt: skip
    """function(logits, *arrays), with the logits of `hidden`.

    Args:
      config, params: of the Transformer whose head it is.
      function: (float32 logits [B, c, V], *arrays [B, c]) -> tree of [B, c]; position by position.
      chunk: positions of each row whose logits exist at once; 0 is all of them. The backward pass
        computes them again.
      hidden: [B, T, D]. arrays: [B, T].

    Returns:
      Tree of [B, T].
    """
    table = params["embedding" if config.tie_embeddings else "unembedding"]

    def apply(hidden, *arrays):
        return function(logits(config, table, hidden), *arrays)

    B, T = hidden.shape[:2]
    if not chunk or chunk >= T:
        if platform() != "tpu":
            return apply(hidden, *arrays)
        axes = ("vocab", "embed") if config.tie_embeddings else ("embed", "vocab")
        table = tpu.shard_gradient(table.astype(config.activation_dtype), axes)
        # The products are kept for the backward pass, and no float32 copy of them.
        products = _products(config, table, hidden, decoding=False)
        policy = jax.checkpoint_policies.save_only_these_names(tpu.LOG_Z)
        rest = jax.checkpoint(lambda x, *a: function(_float32(config, x), *a), policy=policy)
        return rest(products, *arrays)
    count = -(-T // chunk)
    width = -(-T // count)

    # Part i holds the positions i, i + count, …, so that each part of a row that is split over
    # devices stays evenly split.
    def split(x):
        x = jnp.pad(x, [(0, 0), (0, count * width - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, width, count, *x.shape[2:]), 2, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 2).reshape(B, count * width)[:, :T]

    parts = tuple(map(split, (hidden, *arrays)))
    _, out = jax.lax.scan(lambda _, part: (None, jax.checkpoint(apply)(*part)), None, parts)
    return jax.tree.map(join, out)


def sum_targets(
    config: TransformerConfig, params: Mapping[str, Any], function: Callable, hidden: Array,
    targets: Array, mask: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Sums over the positions with a target, for one CPU device: no other has its logits computed.

    A part of the positions is computed at once, with its gradient, in the forward pass: its logits
    fit a core's cache, and none are kept.

    Args:
      config, params: of the Transformer whose head it is.
      function: (float32 logits [P, V], targets [P], mask [P]) -> (the sum whose gradient is taken,
        another sum); a position whose mask is 0 adds nothing.
      hidden: [B, T, D]. targets: [B, T] int32. mask: [B, T], 0 where there is no target.

    Returns:
      The two sums; the second has no gradient.
    """
    table = params["embedding" if config.tie_embeddings else "unembedding"]

    def sums(table, hidden, targets, mask):
        return function(logits(config, table, hidden), targets, mask)

    flat = (jnp.asarray(x).reshape(-1, *x.shape[2:]) for x in (hidden, targets, mask))
    return cpu.sum_used_rows(sums, table, *flat)
