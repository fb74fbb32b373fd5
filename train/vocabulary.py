"""Losses of the vocabulary head, over chunks of positions (`map_logits` in model/vocabulary.py).

Axes: B batch, T length, D embed.
"""

from __future__ import annotations

from model.vocabulary import entropy, log_probs, map_logits
from train import losses


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
