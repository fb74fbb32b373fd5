"""The small models whose outputs transformers computed (tests/model/fixtures/), with parameters on
a mesh, and log-probabilities that a plain forward pass gives them."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_weights as ow

from data.text.builtin import BuiltinTokenizer
from model import sharding
from model.config import TransformerConfig
from model.pretrained.hf_config import config_from_hf
from model.pretrained.mapping import slices
from model.transformer import Transformer
from train.checkpoints.networks import abstract_params

# A tokenizer of as many ids as these models have.
CHARACTERS = BuiltinTokenizer(
    "char", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?!'\n:"[: ow.VOCAB - 7]
)
FIXTURES = Path(__file__).parents[2] / "model/fixtures"


def make_mesh(**axes: int) -> jax.sharding.Mesh:
    """A mesh of these axes, of one device without any."""
    axes = {"fsdp": 1} | axes
    config = sharding.MeshConfig(**axes)
    count = int(np.prod([size for size in axes.values()]))
    return sharding.make_mesh(config, jax.devices()[:count])


def load(name: str, mesh: jax.sharding.Mesh) -> tuple[TransformerConfig, Any, Any]:
    """(config, parameters on the mesh, the fixture)."""
    fixture = np.load(FIXTURES / f"{name}.npz")
    config = config_from_hf(json.loads(str(fixture["config"])))
    abstract = abstract_params("policy", config, mesh)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    shapes = json.loads(str(fixture["shapes"]))
    for s in slices(config):
        leaf = functools.reduce(lambda tree, key: tree[key], s.path, params)
        leaf[s.index] = s.to_ours(ow.draw(s.name, shapes[s.name], "gemma" in name))
    return config, jax.device_put(params, jax.tree.map(lambda x: x.sharding, abstract)), fixture


def plain(config: TransformerConfig, params: Any, length: int = 64) -> Callable:
    """A function of ids [n] -> ([n - 1] float64 log-probabilities of all but the first, [n] the
    likeliest id after each), in one segment of a row of its own."""
    params = jax.device_get(params)
    logits = jax.jit(lambda *args: Transformer(config).apply({"params": params}, *args))

    def logprobs(ids):
        row, segments = np.zeros((2, 1, length), np.int32)
        row[0, : len(ids)], segments[0, : len(ids)] = ids, 1
        out = np.asarray(logits(row, jnp.arange(length)[None], segments)[0], np.float64)
        out = out[: len(ids), : config.vocab_size]
        out -= np.log(np.sum(np.exp(out), axis=-1, keepdims=True))
        return out[np.arange(len(ids) - 1), ids[1:]], out.argmax(-1)

    return logprobs
