"""Sampling on a mesh of its own: the same answers, and no weight gathered at every token."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.tokenizer import train
from model import sharding
from model.config import TransformerConfig
from model.transformer import Transformer
from ranges import ConfigError
from tpu.fit import hlo
from train.checkpoints import networks
from train.config import run as configs
from train.rl.sampler import Sampler, groups

B, P, R = 8, 6, 5


def sampler_on(mesh, dtype, heads=4, **rl):
    model = TransformerConfig(
        vocab_size=300, embed_dim=32, num_layers=2, num_heads=heads, num_kv_heads=2, head_dim=8,
        mlp_dim=64, max_length=32, dtype=dtype,
    )  # fmt: skip
    recipe = configs.default()
    recipe.stage, recipe.rl.prompt_length, recipe.rl.response_length = "ppo", P, R
    recipe.rl.update(rl)
    ctx = SimpleNamespace(
        config=dataclasses.replace(configs.build(recipe), init_from={"reward": "runs/reward"}),
        mesh=mesh, tokenizer=train("byte", [], 0), models={"policy": model},
        data=SimpleNamespace(train_examples=(), heldout_examples=[]),
    )  # fmt: skip
    return Sampler(ctx)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))


def random_params(model, mesh):
    places = jax.tree.map(lambda x: x.sharding, networks.abstract_params("policy", model, mesh))
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = jax.jit(lambda k: Transformer(model).init(k, tokens))(jax.random.key(0))
    return jax.device_put(jax.tree.map(lambda x: 2 * x, nn.unbox(params)["params"]), places)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(7, 263, (B, P)).astype(np.int32)
    return {"tokens": tokens, "mask": np.arange(P) >= rng.integers(2, P, (B, 1))}


@pytest.fixture(scope="module")
def answers(mesh, prompts):
    """dtype -> (what is sampled as the mesh trains, what on one with two shards of heads)."""

    def sampled(dtype, **rl):
        sampler = sampler_on(mesh, dtype, **rl)
        with jax.set_mesh(mesh):
            params = random_params(sampler.ctx.models["policy"], mesh)
            placed = sharding.put_batch(prompts, mesh)
            batch = sampler.sample(params, placed, jax.random.key(1), np.int32(3))
        return jax.device_get(batch), batch["tokens"].sharding

    return lambda dtype: (sampled(dtype), sampled(dtype, decode_tensor=2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_answers_are_the_same_on_a_mesh_for_decoding(answers, dtype):
    (want, place), (got, got_place) = answers(dtype)
    assert got_place == place
    if dtype == "float32":
        np.testing.assert_array_equal(got["tokens"], want["tokens"])
    same = (got["tokens"] == want["tokens"]).all(1)
    assert same.mean() >= 0.5  # bfloat16 rounds another sum, and an answer may take another turn
    for name in ("positions", "segment_ids", "response_mask"):
        np.testing.assert_array_equal(got[name][same], want[name][same])
    logps = (x["sampler_logprobs"][same] for x in (got, want))
    np.testing.assert_allclose(*logps, rtol=1e-5 if dtype == "float32" else 0.05)


def test_prompts_without_common_padding_get_the_same_answers(mesh, prompts):
    sampler = sampler_on(mesh, "float32")
    short = {name: x[:, 2:] for name, x in prompts.items()}
    with jax.set_mesh(mesh):
        params = random_params(sampler.ctx.models["policy"], mesh)
        whole, cut = (
            jax.device_get(
                sampler.sample(params, sharding.put_batch(p, mesh), jax.random.key(1), np.int32(3))
            )
            for p in (prompts, short)
        )
    for name in ("positions", "segment_ids", "response_mask"):
        np.testing.assert_array_equal(cut[name], whole[name])
    valid = whole["segment_ids"] > 0
    np.testing.assert_array_equal(cut["tokens"][valid], whole["tokens"][valid])
    np.testing.assert_allclose(cut["sampler_logprobs"], whole["sampler_logprobs"], rtol=1e-5)


@pytest.mark.parametrize("prompts, samples", [(8, 4), (2, 1), (4, 2), (24, 4)])
def test_groups_are_read_as_seldom_as_the_mesh_allows(mesh, prompts, samples):
    """Four answers to a prompt on a mesh that divides batches by eight."""
    placed = groups(mesh, 4 * prompts, 4)
    assert placed.samples == samples
    np.testing.assert_array_equal(placed.prompts, np.arange(prompts))
    np.testing.assert_array_equal(placed.rows, np.repeat(np.arange(prompts), 4 // samples))


def test_a_process_with_a_part_of_a_group(monkeypatch, mesh):
    """Eight processes place 2 × 4 answers: the sixth has the second answer to the second prompt."""
    monkeypatch.setattr(sharding, "local_rows", lambda mesh, rows: np.array([5]))
    placed = groups(mesh, 8, 4)
    assert (placed.prompts, placed.rows, placed.samples) == ([1], [0], 1)


def test_answers_do_not_depend_on_how_often_a_prompt_is_read(mesh, prompts):
    """Eight prompts, four answers each: all at one reading, at two, at four."""
    sampler, batches = sampler_on(mesh, "float32"), []
    with jax.set_mesh(mesh):
        params = random_params(sampler.ctx.models["policy"], mesh)
        for samples in (1, 2, 4):
            asked = {name: np.repeat(x, 4 // samples, axis=0) for name, x in prompts.items()}
            args = params, sharding.put_batch(asked, mesh), jax.random.key(1), np.int32(3)
            batches.append(jax.device_get(sampler.sample(*args, samples)))
    once, *others = batches
    assert len(np.unique(once["tokens"], axis=0)) > 2 * B
    for other in others:
        for name in ("tokens", "positions", "segment_ids", "response_mask"):
            np.testing.assert_array_equal(other[name], once[name])
        np.testing.assert_allclose(other["sampler_logprobs"], once["sampler_logprobs"], rtol=1e-5)


def test_answers_in_slots_are_the_same(mesh, prompts):
    """Three times as many answers as slots, on the mesh of training and on one for decoding."""
    samplers = (
        sampler_on(mesh, "float32"),
        *(sampler_on(mesh, "float32", slots=8, decode_tensor=times) for times in (1, 2)),
    )
    with jax.set_mesh(mesh):
        params = random_params(samplers[0].ctx.models["policy"], mesh)
        asked = {name: np.concatenate([x, x[::-1], x]) for name, x in prompts.items()}
        args = params, sharding.put_batch(asked, mesh), jax.random.key(1), np.int32(3)
        whole, *others = (jax.device_get(s.sample(*args)) for s in samplers)
    for other in others:
        for name in ("tokens", "positions", "segment_ids", "response_mask"):
            np.testing.assert_array_equal(other[name], whole[name])
        np.testing.assert_allclose(other["sampler_logprobs"], whole["sampler_logprobs"], rtol=1e-5)


def test_fewer_slots_than_answers_to_a_prompt(mesh, prompts):
    sampler = sampler_on(mesh, "float32", slots=8)
    args = sharding.put_batch(prompts, mesh), jax.random.key(1), np.int32(3), 2
    with jax.set_mesh(mesh), pytest.raises(ConfigError, match=r"rl\.slots=16 or more"):
        sampler.sample(random_params(sampler.ctx.models["policy"], mesh), *args)


def test_no_weight_moves_while_it_decodes(mesh):
    sampler = sampler_on(mesh, "bfloat16", decode_tensor=2)
    abstract = networks.abstract_params("policy", sampler.ctx.models["policy"], mesh)
    policy = sampler.abstract_decoding(abstract)
    query = policy["layers"]["query"]
    assert query.dtype == jnp.bfloat16 and query.sharding.shard_shape(query.shape)[2] == 2
    assert policy["final_norm"].dtype == jnp.float32
    rows = sharding.batch_sharding(sampler.mesh)
    tokens = jax.ShapeDtypeStruct((B, P), jnp.int32, sharding=rows)
    mask = jax.ShapeDtypeStruct((B, P), jnp.bool_, sharding=rows)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(sampler.mesh):
        compiled = sampler.generate.lower(policy, tokens, mask, key, np.int32(0)).compile()
    program = hlo.read(compiled.as_text())
    gathered = [c.shape.dims for c in program.collectives if c.kind == "all-gather"]
    # Logits are; what has the embedding's 32 for a side would be a weight, or a hidden state.
    assert gathered and not any(32 in dims for dims in gathered), gathered


@pytest.mark.parametrize(
    "sizes, heads, decode_tensor, message",
    [
        (dict(data=2, fsdp=4), 4, 3, r"decode_tensor=3: .* from mesh\.fsdp=4"),
        (dict(fsdp=2, sequence=4), 4, 2, r"mesh\.sequence=4 are not 1; set --config\.rl"),
        (dict(fsdp=8), 4, 4, r"for decoding, layers/key: .* do not divide"),
    ],
)
def test_a_mesh_that_cannot_decode_so(sizes, heads, decode_tensor, message):
    mesh = sharding.make_mesh(sharding.MeshConfig(**sizes))
    with pytest.raises(sharding.ShardingError, match=message):
        sampler = sampler_on(mesh, "float32", heads, decode_tensor=decode_tensor)
        model = sampler.ctx.models["policy"]
        sampler.abstract_decoding(networks.abstract_params("policy", model, mesh))
