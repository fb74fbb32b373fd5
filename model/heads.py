"""The scalar head: reward and value models are a Transformer with one number a position.

Axes: B batch, T length, D embed.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from model import weights
from model.config import TransformerConfig
from model.cpu import matmul
from model.taps import tap
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
    def __call__(
        self, tokens: Array, positions: Array | None = None, segment_ids: Array | None = None,
        branch_ids: Array | None = None, last: int = 0,
    ) -> Array:  # fmt: skip
        """[B, T] int32 -> [B, T] float32, one number at each position, or at the `last` ones."""
        x, _ = Transformer(self.config, name="backbone").hidden(
            tokens, positions, segment_ids, branch_ids=branch_ids, last=last
        )
        return tap("values", _numbers(self, x, self.head_std))


class ValueHead(nn.Module):
    """`head` [D, 1] alone, of a critic that reads the hidden states of the policy."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """[..., D] -> [...] float32. The weight starts at 0, as in a value model."""
        return _numbers(self, hidden, 0.0)


def _numbers(module: ScalarModel | ValueHead, hidden: Array, std: float) -> Array:
    (row,) = weights.rows(module.config, "head")
    head = weights.create(module, row, module.config, std)
    return matmul(hidden.astype(jnp.float32), head)[..., 0]


def reward_model(config: TransformerConfig) -> ScalarModel:
    return ScalarModel(config, (config.embed_dim + 1) ** -0.5)


def value_model(config: TransformerConfig) -> ScalarModel:
    return ScalarModel(config, 0.0)
