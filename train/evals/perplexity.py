"""Next-token loss on held-out text and conversations."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from data.pipeline import Data
from model import sharding
from model.config import TransformerConfig
from model.transformer import Transformer
from train import losses, vocabulary
from train.evals.base import mean_over_heldout


class Perplexity:
    """The policy's `loss`, in nats per token weighted by the mask, and `bits_per_byte`.

    Args:
      ctx: the run's Context. data: text or conversations.
    """

    def __init__(self, ctx: Any, data: Data):
        self.ctx, self.data = ctx, data
        config, chunk = ctx.models["policy"], ctx.config.loss.chunk
        lengths = np.array([len(b) for b in ctx.tokenizer.token_bytes])
        lengths = np.pad(lengths, (0, config.padded_vocab_size - len(lengths)))
        lengths = jax.device_put(lengths, sharding.replicated(ctx.mesh))
        self._sums = functools.partial(_sums, config, chunk, lengths)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del frozen
        return mean_over_heldout(self.ctx, self.data, self._sums, trainable["policy"]), []


# A function of the module, so that the runs of a sweep trace and compile it once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(
    config: TransformerConfig, chunk: int, lengths: jax.Array, params: Any,
    batch: Mapping[str, jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """{metric: (sum, weight)} of a batch. lengths: int [V], bytes of each token."""
    args = vocabulary.inputs(config, batch)
    hidden, _ = Transformer(config).apply({"params": params}, *args, method=Transformer.hidden)
    _, nats, weight = vocabulary.next_token_loss(config, params, hidden, batch, 0.0, chunk)
    size = losses.masked_sum(lengths[batch["tokens"]], batch["loss_mask"])
    return {"loss": (nats, weight), "bits_per_byte": (nats / math.log(2), size)}
