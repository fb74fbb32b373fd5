"""Functions of logits for the losses, computed for some positions at a time.

Float32 logits [B, T, V] are by far the largest array of a step: at 8,192 tokens and 128k ids a row
of them takes 4 GiB. `map_logits` computes them for `chunk` positions of each row at a time, in the
forward and in the backward pass, so that they are never whole.

Axes: B batch, T length, D embed, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.generate import entropy, log_probs
from model.transformer import Transformer
from train import losses


def map_logits(config, params, function, chunk: int, hidden, *arrays):
    """function(logits, *arrays) where the logits are those of `hidden`.

    Args:
      config, params: of the Transformer whose head is applied.
      function: (float32 logits [B, c, V], *arrays [B, c]) -> tree of [B, c]; position by position.
      chunk: positions of each row whose logits exist at the same time; 0 is all of them. The
        backward pass recomputes them.
      hidden: [B, T, D]. arrays: [B, T].

    Returns:
      Tree of [B, T].
    """

    def apply(hidden, *arrays):
        variables = {"params": params}
        return function(
            Transformer(config).apply(variables, hidden, method=Transformer.logits), *arrays
        )

    B, T = hidden.shape[:2]
    if not chunk or chunk >= T:
        return apply(hidden, *arrays)
    count = -(-T // chunk)
    width = -(-T // count)

    # Part i holds positions i, i + count, …, so that each device of a row split over several has
    # its share of every part.
    def split(x):
        x = jnp.pad(x, [(0, 0), (0, count * width - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, width, count, *x.shape[2:]), 2, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 2).reshape(B, count * width)[:, :T]

    parts = tuple(map(split, (hidden, *arrays)))
    _, out = jax.lax.scan(lambda _, part: (None, jax.checkpoint(apply)(*part)), None, parts)
    return jax.tree.map(join, out)


def next_token_loss(config, params, hidden, batch, z_loss: float, chunk: int):
    """`losses.next_token_loss` of rows (data/batch.py) whose hidden states [B, T, D] these are."""
    mask = batch["loss_mask"][:, 1:]
    arrays = hidden[:, :-1], batch["tokens"][:, 1:], mask
    nats, log_z = map_logits(config, params, losses.token_nats, chunk, *arrays)
    return losses.sum_nats(nats, log_z, mask, z_loss)


def token_logprobs(config, params, hidden, ids, temperature: float, chunk: int):
    """log π(ids) and the entropy, both [B, T] float32, of the distributions after `hidden`."""

    def function(logits, ids):
        return log_probs(logits, ids, temperature), entropy(logits, temperature)

    return map_logits(config, params, function, chunk, hidden, ids)
