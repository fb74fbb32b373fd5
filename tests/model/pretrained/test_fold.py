"""μP's multipliers folded into weights: the standard model computes the same."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from model.config import TransformerConfig
from model.heads import reward_model
from model.pretrained.families import GEMMA, family_of
from model.pretrained.fold import to_standard
from model.transformer import Transformer

TOKENS = np.arange(12).reshape(2, 6)
SHAPE = dict(vocab_size=20, embed_dim=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
             mlp_dim=40, parametrization="mup", base_width=10)  # fmt: skip
FORMS = {
    "llama": dict(tie_embeddings=False),
    "qwen2": dict(tie_embeddings=True, attention_bias=True),
    "gemma3_text": GEMMA | dict(qk_norm=True, activation="gelu_tanh"),
}


@pytest.mark.parametrize("module", [Transformer, reward_model], ids=["policy", "reward"])
@pytest.mark.parametrize("family", FORMS)
def test_the_folded_model_computes_the_same(family, module):
    config = TransformerConfig(**SHAPE | FORMS[family])
    params = nn.unbox(jax.jit(module(config).init)(jax.random.key(0), TOKENS))["params"]
    # Biases and norms that have learned something.
    noise = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    params = jax.tree.map(lambda x, n: x + n, params, noise)
    standard, fold = to_standard(config, scalar=module is reward_model)
    assert standard.width_ratio == 1 and family_of(standard) == family
    folded = jax.tree_util.tree_map_with_path(lambda path, x: fold(path[-1].key, x), params)
    before = jax.jit(module(config).apply)({"params": params}, TOKENS)
    after = jax.jit(module(standard).apply)({"params": folded}, TOKENS)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    unfolded = jax.jit(module(standard).apply)({"params": params}, TOKENS)
    assert np.abs(unfolded - before).max() > 1e-3
