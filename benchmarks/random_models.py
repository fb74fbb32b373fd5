"""Models with random weights, as runs start from them: in memory, as workdirs, and as Hugging Face
directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from data.text.base import Tokenizer
from model.config import TransformerConfig
from model.pretrained import hf_config
from model.sizes import SIZES
from train.checkpoints import checkpointer, networks, saved_models
from train.interop import weights
from train.step import TrainState


def random_params(config: TransformerConfig, role: str = "policy", seed: int = 0) -> Any:
    """Random weights of a role's network."""
    init = jax.jit(lambda key: nn.unbox(networks.init_params(role, config, key)))
    return init(jax.random.key(seed))


def random_model() -> tuple[TransformerConfig, Any]:
    """(TransformerConfig, params) of a random Llama of size 10m, with a vocabulary of 4,096."""
    config = TransformerConfig(vocab_size=4096, **SIZES["10m"])
    return config, random_params(config)


def write_random(
    workdir: epath.PathLike,
    role: str,
    model: TransformerConfig,
    tokenizer: Tokenizer,
    seed: int,
) -> None:
    """Writes a workdir with random weights of a role, as a finished stage leaves one."""
    tokenizer.save(f"{workdir}/tokenizer")
    saved_models.save_models(workdir, {role: model})
    zero = {"step": np.asarray(0, np.int32)}
    saver = checkpointer.Checkpointer(workdir, keep=1)
    saver.save(TrainState(jnp.int32(0), {role: random_params(model, role, seed)}, zero, zero), {})
    saver.close()


def write_hf(directory: epath.PathLike, config: TransformerConfig, params: Any) -> None:
    """Writes a model as a Hugging Face directory, without a tokenizer."""
    hf = hf_config.config_to_hf(config) | {"dtype": config.dtype}
    Path(directory, "config.json").write_text(json.dumps(hf))
    tensors = weights.tensors_of(config, flatten_dict(params).__getitem__)
    weights.write_safetensors(directory, tensors, config.dtype)
