"""The scalar head: reward and value models are a Transformer with one number a position.

Axes: B batch, T length, D embed.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from model.block import linear
from model.config import TransformerConfig
from model.transformer import Transformer


class ScalarModel(nn.Module):
    """`backbone` (a Transformer without its vocabulary head) and `head` [D, 1].

    Attributes:
      config: of the backbone.
      head_std: the head's initial standard deviation. Reward models use 1/sqrt(D+1) (Stiennon et
        al. 2020, arXiv:2009.01325); value models start at 0, so that the first advantages are the
        rewards themselves.
    """

    config: TransformerConfig
    head_std: float

    @nn.compact
    def __call__(self, tokens, positions=None, segment_ids=None, branch_ids=None):
        """[B, T] int32 -> [B, T] float32, one number at each position."""
        x, _ = Transformer(self.config, name="backbone").hidden(
            tokens, positions, segment_ids, branch_ids=branch_ids
        )
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.head_std), ("norm", "scalar")
        )
        head = self.param("head", init, (self.config.embed_dim, 1), jnp.float32)
        return linear(x.astype(jnp.float32), head)[..., 0]


def reward_model(config: TransformerConfig) -> ScalarModel:
    return ScalarModel(config, (config.embed_dim + 1) ** -0.5)


def value_model(config: TransformerConfig) -> ScalarModel:
    return ScalarModel(config, 0.0)
