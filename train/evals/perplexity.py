"""Next-token loss on held-out text and conversations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import Data
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
        lengths = jnp.pad(jnp.asarray(lengths), (0, config.padded_vocab_size - len(lengths)))

        def sums(params, batch):
            mask = batch["loss_mask"]
            args = vocabulary.inputs(config, batch)
            hidden, _ = Transformer(config).apply(
                {"params": params}, *args, method=Transformer.hidden
            )
            _, nats, weight = vocabulary.next_token_loss(config, params, hidden, batch, 0.0, chunk)
            size = losses.masked_sum(lengths[batch["tokens"]], mask)
            return {"loss": (nats, weight), "bits_per_byte": (nats / math.log(2), size)}

        self._sums = jax.jit(sums)

    def __call__(
        self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> tuple[dict[str, float], list[dict]]:
        del frozen
        return mean_over_heldout(self.ctx, self.data, self._sums, trainable["policy"]), []
