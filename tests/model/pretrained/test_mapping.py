"""The open families against recorded values of transformers (tests/model/fixtures/).

Axes: B batch, T length, V vocabulary.
"""

import dataclasses
import importlib.util
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import open_weights as ow
import pytest

from model.generate import Sampling, generate, prompt_positions
from model.layers.kv_cache import init_cache
from model.pretrained.families import family_of
from model.pretrained.hf_config import config_from_hf, config_to_hf
from model.pretrained.mapping import slices
from model.sharding import MeshConfig, make_mesh, parameter_shardings
from model.transformer import Transformer

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHUNK = 3  # tokens that go into the cache at once


def assemble(config, tensors):
    """Our parameters from {tensor name: array}; every element is filled once."""
    init = Transformer(config).init
    boxed = jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    params = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), nn.unbox(boxed)["params"])
    for s in slices(config):
        leaf = params
        for key in s.path:
            leaf = leaf[key]
        assert np.isnan(leaf[s.index]).all(), f"{s.name} overlaps with another tensor"
        leaf[s.index] = s.to_ours(tensors[s.name])
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert not np.isnan(leaf).any(), f"no tensor fills {path}"
    return params


def disassemble(config, params):
    """{tensor name: array} from our parameters."""
    tensors = {}
    for s in slices(config):
        leaf = params
        for key in s.path:
            leaf = leaf[key]
        tensors[s.name] = s.to_hf(np.asarray(leaf)[s.index])
    return tensors


def drawn(fixture, name, salt=""):
    shapes = json.loads(str(fixture["shapes"]))
    return {k: ow.draw(k, shape, "gemma" in name, salt) for k, shape in shapes.items()}


def batch():
    """All inputs as one batch, padded on the left.

    Returns:
      tokens, positions, segments: [4, T] int32; {case: [4, T] bool, the tokens it compares}.
    """
    given = ow.inputs()
    T = len(given["long"])
    left = T - given["padded"].shape[1]
    tokens, segments = np.zeros((4, T), np.int32), np.zeros((4, T), np.int32)
    tokens[:2, left:], segments[:2, left:] = given["padded"], given["padded_mask"]
    tokens[2], segments[2] = given["long"], 1
    tokens[3] = given["packed"]
    segments[3] = np.repeat([*range(1, len(ow.DOCUMENTS) + 1), 0], (*ow.DOCUMENTS, ow.PADDING))
    positions = np.maximum(np.cumsum(segments > 0, axis=1) - 1, 0)
    positions[3] = np.concatenate([np.arange(n) for n in (*ow.DOCUMENTS, ow.PADDING)])
    case = np.array(["padded", "padded", "long", "packed"])[:, None]
    masks = {name: (case == name) & (segments > 0) for name in ("padded", "long", "packed")}
    return tokens, positions.astype(np.int32), segments, masks


def everything(config):
    """A jitted function of parameters: logits of the batch, plain and cached, and a gradient."""
    tokens, positions, segments, _ = batch()
    model, (B, T) = Transformer(config), tokens.shape

    def cached(params):
        """`CHUNK` tokens at a time, each against a cache of those before it."""

        def body(cache, t):
            def call(module):
                row = (jax.lax.dynamic_slice_in_dim(x, t, CHUNK, 1) for x in data)
                hidden, new = module.hidden(*row, cache, t)
                return module.logits(hidden), new

            logits, cache = model.apply({"params": params}, method=call)
            return cache, logits

        data = [jnp.asarray(x) for x in (tokens, positions, segments)]
        _, logits = jax.lax.scan(body, init_cache(config, B, T), jnp.arange(0, T, CHUNK))
        return logits.swapaxes(0, 1).reshape(B, T, -1)

    def run(params):
        def loss(params):
            logits = model.apply({"params": params}, tokens, positions, segments)
            logp = jax.nn.log_softmax(logits[2, :-1])
            return -jnp.mean(jnp.take_along_axis(logp, tokens[2, 1:, None], 1)), logits

        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return {"plain": logits, "cached": cached(params)}, gradient

    return jax.jit(run)


def compare(fixture, tensors):
    """Asserts that ours are the logits and gradients of a fixture."""
    config = config_from_hf(json.loads(str(fixture["config"])))
    assert {s.name: list(s.shape) for s in slices(config)} == json.loads(str(fixture["shapes"]))
    logits, gradient = everything(config)(assemble(config, tensors))
    for case, mask in batch()[-1].items():
        assert np.abs(fixture[case]).max() > 1
        for way, ours in logits.items():
            error = np.abs(ours[mask][:, : ow.VOCAB] - fixture[case])
            assert error.max() < 2e-4, f"{case}, {way}: {error.max()}"
    gradient = disassemble(config, gradient)
    for tensor, theirs in zip(sorted(tensors), fixture["gradients"], strict=True):
        ours = ow.summary(tensor, gradient[tensor])
        # An expert may receive no token; every other weight has a gradient to compare.
        assert theirs[0] > 1e-4 or ".experts." in tensor, tensor
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * theirs[0], rtol=0, err_msg=tensor)


@pytest.mark.parametrize("name", ow.FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(name):
    fixture = np.load(FIXTURES / f"{name}.npz")
    compare(fixture, drawn(fixture, name))


@pytest.mark.parametrize("name", ow.FAMILIES)
def test_configs_and_tensors_survive_the_way_there_and_back(name):
    fixture = np.load(FIXTURES / f"{name}.npz")
    config = config_from_hf(json.loads(str(fixture["config"])))
    assert config_from_hf(config_to_hf(config)) == config
    assert family_of(config) == json.loads(str(fixture["config"]))["model_type"]
    tensors = drawn(fixture, name)
    back = disassemble(config, assemble(config, tensors))
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value)


@pytest.fixture(scope="module")
def generator():
    """The module tests/model/fixtures/make_fixtures.py, where it runs."""
    reason = "needs torch and transformers, which Seedpod itself does not"
    pytest.importorskip("torch", reason=reason)
    pytest.importorskip("transformers", reason=reason)
    spec = importlib.util.spec_from_file_location("maker", FIXTURES / "make_fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ow.FAMILIES)
def test_fresh_models_of_transformers_agree_both_ways(name, generator, tmp_path):
    salt = " another"
    fixture = generator.record(name, salt)
    tensors = drawn(fixture, name, salt)
    compare(fixture, tensors)
    config = config_from_hf(json.loads(str(fixture["config"])))
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    ours = {
        k: np.ascontiguousarray(x)
        for k, x in disassemble(config, assemble(config, tensors)).items()
    }
    generator.save_file(ours, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = generator.transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    back = generator.logits(model.eval(), ow.inputs()["long"][None])[0]
    np.testing.assert_allclose(back, fixture["long"], atol=1e-5)


def test_generate_is_greedy_decoding_without_a_cache():
    """Beyond the window, with soft caps, two kinds of layer and a remainder of the pattern."""
    fixture = np.load(FIXTURES / "gemma3.npz")
    config = config_from_hf(json.loads(str(fixture["config"])))
    params = assemble(config, drawn(fixture, "gemma3"))
    prompts = jnp.asarray(ow.inputs()["padded"][:, 2:14])
    mask = jnp.asarray(ow.inputs()["padded_mask"][:, 2:14])
    keys = jax.random.split(jax.random.key(0), 2)
    sampling = Sampling(max_new_tokens=6, temperature=0.0)
    run = jax.jit(generate, static_argnums=(0, 5))
    tokens = run(config, params, prompts, mask, keys, sampling).tokens

    @jax.jit
    def expected(tokens):
        full = jnp.concatenate([mask, jnp.ones((2, 6), bool)], axis=1)
        logits = Transformer(config).apply(
            {"params": params}, tokens, prompt_positions(full), full.astype(jnp.int32)
        )
        return jnp.argmax(logits[:, 11:-1], axis=-1)

    np.testing.assert_array_equal(tokens[:, 12:], expected(tokens))


def test_gemma_on_a_mesh_equals_one_device():
    """Soft caps, windows, two rotary bases and norms, over every axis of a dense model."""
    fixture = np.load(FIXTURES / "gemma3.npz")
    config = config_from_hf(json.loads(str(fixture["config"])))
    params = assemble(config, drawn(fixture, "gemma3"))
    config = dataclasses.replace(config, attention_softcap=5.0, logit_softcap=5.0)
    tokens, positions, segments, _ = batch()

    @jax.jit
    def gradients(params):
        def loss(params):
            logits = Transformer(config).apply({"params": params}, tokens, positions, segments)
            return jnp.mean(jnp.where(segments > 0, jax.nn.log_softmax(logits)[..., 3], 0.0))

        return jax.value_and_grad(loss)(params)

    expected = gradients(params)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    init = Transformer(config).init
    boxed = jax.eval_shape(lambda: init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))
    with jax.set_mesh(mesh):
        got = gradients(jax.device_put(params, parameter_shardings(boxed["params"], mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)
