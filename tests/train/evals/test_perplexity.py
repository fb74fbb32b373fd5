"""Numbers that the evaluation of text reports, worked out by hand."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np

from model.sharding import MeshConfig, make_mesh
from train.evals import perplexity


def test_bytes_are_weighed_as_the_loss_weighs_their_tokens(monkeypatch):
    """Three nats a token, so bits per byte are 3/ln 2 by the weighted mean length."""

    class Nothing:
        hidden = None

        def __init__(self, config):
            pass

        def apply(self, *args, **named):
            return None, None

    def loss(config, params, hidden, batch, z_loss, chunk):
        weight = batch["loss_mask"].sum()
        return 3 * weight, 3 * weight, weight

    monkeypatch.setattr(perplexity, "Transformer", Nothing)
    monkeypatch.setattr(perplexity.vocabulary, "next_token_loss", loss)
    settings = SimpleNamespace(loss=SimpleNamespace(chunk=0))
    model = NamedTuple("Model", [("padded_vocab_size", int)])(8)  # jit needs a hash of it
    ctx = SimpleNamespace(
        config=settings,
        models={"policy": model},
        mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
        tokenizer=SimpleNamespace(token_bytes=[b"", b"a", b"bb", b"cccc"]),
    )
    ids = np.array([[0, 1, 2, 3]])
    batch = dict(tokens=ids, positions=ids, segment_ids=ids, loss_mask=[[0, 0.5, 2.0, 0.25]])
    batch = {name: np.asarray(x, np.float32 if name == "loss_mask" else np.int32)
             for name, x in batch.items()}  # fmt: skip
    sums = perplexity.Perplexity(ctx, None)._sums({}, batch)
    np.testing.assert_allclose(sums["loss"], (3 * 2.75, 2.75))
    size = 0.5 * 1 + 2 * 2 + 0.25 * 4
    np.testing.assert_allclose(sums["bits_per_byte"], (3 * 2.75 / math.log(2), size), rtol=1e-6)
