"""The table of weights: a made-up row reaches everything derived from it; initial scales."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from model import cpu, lora, quantized, weights
from model.config import TransformerConfig
from model.generate import prepare
from model.layers import stack
from model.layers.block import block
from model.layers.projection import project
from model.pretrained.mapping import check_covered, slices
from model.sharding import MeshConfig, make_mesh, parameter_shardings
from model.transformer import Transformer
from train.optimizer import decay_mask, muon_dimensions

CONFIG = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=24, vocab_multiple=32,
)  # fmt: skip
TOKENS = jnp.arange(12).reshape(2, 6) % 20


def init(config):
    return jax.jit(Transformer(config).init)(jax.random.key(0), TOKENS)["params"]


@pytest.fixture
def row(monkeypatch):
    """A weight that is not in the package's table, and the line that uses it."""
    row = weights.matrix("mixer", "D H", "embed heads", "self_attn.mixer.weight", saved="minimal")
    monkeypatch.setattr(weights, "TABLE", (*weights.TABLE, row))

    def with_mixer(config, kind, params, carry, *args):
        (x, *rest), stats = block(config, kind, params, carry, *args)
        gate = jnp.mean(project(params, "mixer", x), axis=-1, keepdims=True)
        return (x * jax.nn.sigmoid(gate), *rest), stats

    monkeypatch.setattr(stack, "block", with_mixer)
    return row


def test_a_new_weight_is_a_row_and_its_use(row):
    boxed = init(CONFIG)
    params = nn.unbox(boxed)
    layers = params["layers"]
    assert layers["mixer"].shape == (2, 16, 4)
    np.testing.assert_allclose(np.std(layers["mixer"]), 16**-0.5, rtol=0.2)

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = parameter_shardings(boxed, mesh)
    assert shardings["layers"]["mixer"].spec == P(None, ("fsdp", "sequence"), "tensor")

    optimized = {"policy": params}
    assert decay_mask(optimized)["policy"]["layers"]["mixer"]
    dimensions = muon_dimensions(optimized)["policy"]["layers"]["mixer"]
    assert (dimensions.reduction_axis, dimensions.output_axis) == ((1,), (2,))

    like = jax.ShapeDtypeStruct((2, 16, 4), jnp.float32, sharding=shardings["layers"]["mixer"])
    a, b = lora.abstract("mixer", like, rank=3)
    assert (a.shape, b.shape) == ((2, 16, 3), (2, 3, 4))
    adapters = lora.init(jax.random.key(1), {"layers": {"mixer_lora_a": a, "mixer_lora_b": b}})
    adapters["layers"]["mixer_lora_b"] += 0.5
    adapted = params | {"layers": layers | lora.scaled(adapters, 16 / 3)["layers"]}
    merged = lora.merge(params, adapters, lora.LoRA(rank=3))
    run = jax.jit(lambda params: Transformer(CONFIG).apply({"params": params}, TOKENS))
    np.testing.assert_allclose(run(adapted), run(merged), atol=1e-4)
    assert np.abs(run(adapted) - run(params)).max() > 1e-3

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    placed = jax.tree.map(jax.device_put, params, parameter_shardings(boxed, mesh))
    assert quantized.convert(placed, "int8")["layers"]["mixer"].qvalue.dtype == jnp.int8
    decoding = dataclasses.replace(CONFIG, dtype="bfloat16", scan_unroll=0)
    prepared = prepare(decoding, params)["layers"]["1"]["mixer"]
    assert isinstance(prepared, cpu.TransposedWeight) and prepared.rows.shape == (4, 16)
    assert weights.read_in_activation_dtype("mixer") and weights.is_layer_matrix("mixer")
    assert "mixer" in weights.saved_outputs("minimal") - weights.saved_outputs("qkv")

    matrices = sum(math.prod(x.shape) for x in jax.tree.leaves(layers) if x.ndim > 2)
    head = CONFIG.padded_vocab_size * CONFIG.embed_dim
    assert weights.flops_per_token(CONFIG, 0) == 6 * (matrices + head)

    (part,) = (p for p in slices(CONFIG) if p.path == ("layers", "mixer") and p.index == (1,))
    assert part.name == "model.layers.1.self_attn.mixer.weight" and part.shape == (4, 16)
    np.testing.assert_array_equal(part.to_hf(layers["mixer"][1]), layers["mixer"][1].T)
    shapes = {tuple(k.key for k in path): x.shape for path, x in jax.tree.leaves_with_path(params)}
    check_covered(CONFIG, shapes)


def test_a_weight_without_a_name_in_checkpoints_is_not_left_out(row, monkeypatch):
    monkeypatch.setattr(weights, "TABLE", (*weights.TABLE[:-1], row._replace(hf={})))
    shapes = {
        tuple(k.key for k in path): x.shape
        for path, x in jax.tree.leaves_with_path(nn.unbox(init(CONFIG)))
    }
    with pytest.raises(ValueError, match=r"a weight layers/mixer, for which a llama model has no"):
        check_covered(CONFIG, shapes)


# Initial scales.

WIDE = TransformerConfig(
    vocab_size=500, embed_dim=256, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=64,
    mlp_dim=512, tie_embeddings=False,
)  # fmt: skip


def deviations(**settings):
    """{name: standard deviation} of the weights of a fresh model."""
    config = dataclasses.replace(WIDE, **settings)
    params = nn.unbox(jax.jit(Transformer(config).init)(jax.random.key(0), TOKENS))["params"]
    return {p[-1].key: float(np.std(x)) for p, x in jax.tree.leaves_with_path(params)}


def test_gpt2_starts_its_residual_projections_smaller():
    """Radford et al. 2019, §2.3: normal with deviation 0.02, those that write to the residual
    stream divided by √N, of N = 2·layers of attention and MLP."""
    std = deviations(init_scale=0.02 * 256**0.5, embedding_std=0.02, depth_scaled_init=True)
    for name in ("query", "key", "value", "gate", "up", "embedding", "unembedding"):
        np.testing.assert_allclose(std[name], 0.02, rtol=0.03, err_msg=name)
    np.testing.assert_allclose(std["out"], 0.02 / math.sqrt(6), rtol=0.03)
    # Ours follows from the fan-in, and that of `down` is twice the width here.
    np.testing.assert_allclose(std["down"], 0.02 / math.sqrt(6) / math.sqrt(2), rtol=0.03)
