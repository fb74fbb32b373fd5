"""The sharding table: its errors with the names they give, and the placement of arrays."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from model import sharding
from model.config import TransformerConfig
from model.generate import Sampling, generate
from model.heads import reward_model
from model.sharding import MeshConfig, ShardingError, make_mesh, partition_spec
from model.sizes import SIZES
from model.transformer import Transformer
from ranges import ConfigError

FSDP = ("fsdp", "sequence")  # the mesh axes that split a parameter's width
CONFIG = TransformerConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=32, vocab_multiple=32, tie_embeddings=False,
)  # fmt: skip


def boxed(model):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))["params"]


def test_the_rest_of_the_devices_go_to_the_axis_of_minus_one():
    assert MeshConfig().shape(8) == (1, 8, 1, 1, 1)
    assert MeshConfig(data=2, fsdp=-1, tensor=2).shape(8) == (2, 2, 1, 1, 2)
    assert MeshConfig(data=1, fsdp=1, tensor=1).shape(1) == (1, 1, 1, 1, 1)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "expert": 1, "sequence": 1, "tensor": 2}
    assert sharding.batch_shards(mesh) == 4


@pytest.mark.parametrize(
    "sizes,message",
    [
        (dict(data=-1, fsdp=3), r"data=-1, fsdp=3, expert=1, .* does not make 8 devices"),
        (dict(data=2, fsdp=2, tensor=1), r"does not make 8 devices; set its axes"),
        (dict(data=-1, fsdp=-1), r"at most one of them is -1"),
        (dict(data=8, fsdp=0), r"mesh\.fsdp=0; it must be at least 1, or -1"),
        (dict(data=-2, fsdp=-4), r"mesh\.data=-2; it must"),
        (dict(tensor=16), r"does not make 8 devices"),
    ],
)
def test_a_bad_mesh_is_an_error(sizes, message):
    with pytest.raises((ShardingError, ConfigError), match=message):
        MeshConfig(**sizes).shape(8)


def test_a_name_without_a_rule_is_an_error():
    with pytest.raises(ShardingError, match=r"parameter layers/w .*no sharding rule for 'embd'"):
        partition_spec(("embd", "mlp"), label="parameter layers/w")
    with pytest.raises(ShardingError, match=r"no sharding rule for 'embed'"):  # a parameter's name
        sharding.constrain(jnp.zeros((2, 2)), "act_batch", "embed")


def test_two_dimensions_on_one_mesh_axis_are_an_error():
    with pytest.raises(ShardingError, match=r"'heads' and 'mlp' both want mesh axis 'tensor'"):
        partition_spec(("heads", "mlp"))
    with pytest.raises(ShardingError, match=r"both want mesh axis 'data'"):
        partition_spec(("act_batch", "act_batch"), sharding.ACTIVATION_AXES)
    assert partition_spec(("embed", "mlp")) == P(FSDP, "tensor")
    assert partition_spec(("norm", "norm")) == P(None, None)


def test_every_parameter_stands_in_the_table():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = boxed(Transformer(CONFIG))
    specs = jax.tree.map(lambda s: s.spec, sharding.parameter_shardings(params, mesh))
    assert specs == {
        "embedding": P("tensor", FSDP),
        "unembedding": P(FSDP, "tensor"),
        "final_norm": P(None),
        "layers": {
            "query": P(None, FSDP, "tensor", None),
            "key": P(None, FSDP, "tensor", None),
            "value": P(None, FSDP, "tensor", None),
            "out": P(None, "tensor", None, FSDP),
            "gate": P(None, FSDP, "tensor"),
            "up": P(None, FSDP, "tensor"),
            "down": P(None, "tensor", FSDP),
            "attention_norm": P(None, None),
            "mlp_norm": P(None, None),
        },
    }
    head = sharding.parameter_shardings(boxed(reward_model(CONFIG)), mesh)["head"]
    assert head.spec == P(None, None)


@pytest.mark.parametrize("size", ["qwen2.5-7b", "gemma3-12b", "mixtral-8x7b"])
def test_the_parameters_of_every_family_stand_in_the_table(size):
    config = TransformerConfig(vocab_size=1000, **SIZES[size])
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
    layers = sharding.parameter_shardings(boxed(Transformer(config)), mesh)["layers"]
    expected = {
        "query_bias": P(None, "tensor", None),
        "query_norm": P(None, None),
        "post_mlp_norm": P(None, None),
        "router": P(None, ("fsdp", "sequence"), None),
        "expert_gate": P(None, "expert", ("fsdp", "sequence"), "tensor"),
        "expert_down": P(None, "expert", "tensor", ("fsdp", "sequence")),
    }
    specs = {name: s.spec for name, s in layers.items() if name in expected}
    assert specs and all(expected[name] == spec for name, spec in specs.items())


def test_a_size_that_the_mesh_does_not_divide_is_an_error():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=4))
    message = (
        r"parameter layers/key: dimension 2 of \(2, 16, 2, 8\) is 2, which mesh axes tensor = 4 "
        r"do not divide; .* or set model\.replicate_kv_heads=True"
    )
    with pytest.raises(ShardingError, match=message):
        sharding.parameter_shardings(boxed(Transformer(CONFIG)), mesh)


def test_a_parameter_without_names_is_an_error():
    tree = {"a": {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}}
    mesh = make_mesh(MeshConfig())
    with pytest.raises(ShardingError, match=r"parameter a/w has no logical axes"):
        sharding.parameter_shardings(tree, mesh)
    named = {"w": nn.Partitioned(tree["a"]["w"], names=("embed", "nothing"))}
    with pytest.raises(ShardingError, match=r"parameter w .*'nothing'"):
        sharding.parameter_shardings(named, mesh)


def test_constrain_pins_an_activation_only_under_a_mesh():
    x = jnp.arange(32.0).reshape(8, 2, 2)
    names = ("act_batch", "act_length", "act_mlp")
    assert sharding.constrain(x, *names) is x
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, *names))(x)
    assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
    np.testing.assert_array_equal(y, x)


def test_put_batch_shards_rows_over_the_batch_axes():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    batch = {"tokens": np.arange(16).reshape(8, 2), "end": np.arange(8)}
    placed = sharding.put_batch(batch, mesh)
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 2)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)


def test_replicated_key_heads_equal_one_device():
    """Two key heads on four tensor shards: training, and decoding with a cache."""
    config = dataclasses.replace(CONFIG, replicate_kv_heads=True)
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    specs = sharding.parameter_shardings(boxed(Transformer(config)), mesh)
    assert specs["layers"]["key"].spec == P(None, FSDP, None, None)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype),
        nn.unbox(boxed(Transformer(config))),
    )
    tokens = rng.integers(0, 20, (4, 6))
    mask, keys = jnp.ones((4, 6), bool), jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def run(params):
        def loss(params):
            logits = Transformer(config).apply({"params": params}, tokens)
            return jnp.mean(jax.nn.log_softmax(logits)[..., 3])

        sample = generate(config, params, tokens, mask, keys, Sampling(3, temperature=0.0))
        return jax.value_and_grad(loss)(params), sample.tokens, sample.logprobs

    expected = run(params)
    with jax.set_mesh(mesh):
        got = run(jax.device_put(params, specs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_between_slices_runs_data_alone():
    devices = [SimpleNamespace(slice_index=i // 4) for i in range(8)]
    with pytest.raises(ShardingError, match=r"mesh\.data=1 on 2 slices.*data to a multiple of 2"):
        make_mesh(MeshConfig(data=1, fsdp=8), devices)
