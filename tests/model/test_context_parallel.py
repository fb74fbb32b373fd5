"""The whole model with rows, and parameters, split over the mesh axis `sequence`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import sharding
from model.config import TransformerConfig
from model.sharding import MeshConfig, ShardingError, make_mesh
from model.transformer import Transformer

CONFIG = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4,
    mlp_dim=32, vocab_multiple=4, layer_pattern=("local", "global"), window=5, scan_unroll=0,
)  # fmt: skip
MESH = MeshConfig(data=1, fsdp=2, sequence=4)


def test_a_split_model_equals_a_whole_one():
    """Logits in the row's order, and gradients, of packed rows with windows."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, (2, 16))
    segments = np.array([[1] * 9 + [2] * 7, [1] * 12 + [0] * 4], np.int32)
    positions = np.array([[*range(9), *range(7)], [*range(12), *range(4)]], np.int32)
    model = Transformer(CONFIG)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens[:1, :2]))["params"]
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), nn.unbox(boxed)
    )

    @jax.jit
    def run(params):
        def loss(params):
            logits = model.apply({"params": params}, tokens, positions, segments)
            nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
            return jnp.mean(jnp.where(segments[..., None] > 0, nats, 0)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    expected = run(params)
    mesh = make_mesh(MESH)
    specs = sharding.parameter_shardings(boxed, mesh)
    gate = jax.device_put(params, specs)["layers"]["gate"]
    assert gate.addressable_shards[0].data.shape == (3, 16 // 8, 32)
    with jax.set_mesh(mesh):
        got = run(jax.device_put(params, specs))
        with pytest.raises(ShardingError, match="rows of 12 tokens do not split"):
            model.apply({"params": params}, tokens[:, :12])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)
