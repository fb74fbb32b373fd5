"""Packed rows train as the same documents one at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import segment_row, stack
from data.packing.chats import best_fit
from model.config import TransformerConfig
from model.kernels.plain import CHUNK
from model.transformer import Transformer
from train.losses import next_token_loss

CONFIG = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=24, vocab_multiple=8,
)  # fmt: skip
LENGTH = CHUNK + 16  # attention reads the packed rows in two chunks, and segments cross the border


@pytest.fixture(scope="module")
def documents():
    """(ids, loss mask) of documents that leave little room, some of their tokens not learnt, and
    others with weights of their own."""
    rng = np.random.default_rng(0)
    sizes = [50, 29, 40, 25, 14, 2, 70, 9]
    weights = np.array([0, 0.25, 1, 1, 2], np.float32)
    return [(rng.integers(0, 20, n), rng.choice(weights, n)) for n in sizes]


@pytest.fixture(scope="module")
def loss():
    model = Transformer(CONFIG)
    rng = np.random.default_rng(1)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)))["params"]
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), shapes)

    def sums(params, batch):
        args = batch["tokens"], batch["positions"], batch["segment_ids"]
        logits = model.apply({"params": params}, *args)
        total, _, weight = next_token_loss(logits, batch["tokens"], batch["loss_mask"], 1e-3)
        return total, weight

    value_and_grad = jax.jit(jax.value_and_grad(sums, has_aux=True))

    def mean(rows):
        (total, weight), grads = value_and_grad(params, stack(rows))
        return (
            float(total) / float(weight),
            float(weight),
            jax.tree.map(lambda g: g / weight, grads),
        )

    return mean


def test_the_loss_of_packed_rows_is_that_of_the_documents_alone(documents, loss):
    bins = best_fit([len(ids) for ids, _ in documents], LENGTH)
    assert len(bins) < len(documents)
    packed, weight, grads = loss([segment_row([documents[i] for i in b], LENGTH) for b in bins])
    alone, same, one_by_one = loss([segment_row([d], LENGTH) for d in documents])
    assert weight == same == sum(mask[1:].sum() for _, mask in documents)
    assert abs(packed - alone) < 1e-5
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), grads, one_by_one)


def test_packing_without_segments_would_be_noticed(documents, loss):
    bins = best_fit([len(ids) for ids, _ in documents], LENGTH)
    rows = [segment_row([documents[i] for i in b], LENGTH) for b in bins]
    packed, _, _ = loss(rows)
    for row in rows:
        row["segment_ids"][row["segment_ids"] > 0] = 1
    assert abs(loss(rows)[0] - packed) > 1e-3
