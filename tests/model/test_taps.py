"""Taps: nothing is compiled of them, and within `watching` each is visited once a layer."""

import dataclasses
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import taps
from model.config import TransformerConfig
from model.heads import reward_model
from model.transformer import Transformer

DENSE = TransformerConfig(
    vocab_size=21, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, mlp_dim=20,
    remat="minimal",
)  # fmt: skip
MIXTURE = dataclasses.replace(DENSE, num_experts=4, experts_per_token=2)
TOKENS = np.arange(8)[None]
TAPPED = ("transformer", "heads", "layers.block", "layers.attention", "layers.mlp", "layers.moe",
          "kernels.plain")  # fmt: skip


@pytest.mark.parametrize("config", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_training_compiles_the_program_that_has_no_taps(config, monkeypatch):
    def text():
        model = reward_model(config)
        params = nn.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS)))

        def loss(params, tokens):
            return jnp.sum(model.apply(params, tokens))

        return jax.jit(jax.grad(loss)).lower(params, TOKENS).as_text()

    with_taps = text()
    for name in TAPPED:
        module = importlib.import_module(f"model.{name}")
        monkeypatch.setattr(module, "tap", lambda name, x: x)
    monkeypatch.setattr(taps, "active", lambda: False)
    assert with_taps == text()


def test_a_visitor_sees_every_layer_of_a_scan_and_can_change_it():
    model = Transformer(DENSE)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)
    seen = []

    def visit(name, x):
        seen.append(name)
        return x if name != "layers.1.mlp.out" else jnp.zeros_like(x)

    plain = jax.jit(model.apply)(params, TOKENS)
    with taps.watching(visit):
        changed = jax.jit(lambda params: model.apply(params, TOKENS))(params)
        assert taps.active()
    assert not taps.active()
    assert [n[:8] for n in seen if n.endswith(".residual")] == ["layers.0", "layers.1", "layers.2"]
    assert len(seen) == len(set(seen)) and {"embedding", "final_norm", "logits"} < {*seen}
    without = jax.tree.map(lambda x: x, nn.unbox(params))
    without["params"]["layers"]["down"] = without["params"]["layers"]["down"].at[1].set(0)
    np.testing.assert_allclose(changed, jax.jit(model.apply)(without, TOKENS), atol=1e-5)
    assert np.abs(changed - plain)[..., :21].max() > 1e-3
