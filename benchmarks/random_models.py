"""Workdirs with random weights, as runs start from them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data.text.base import Tokenizer
from model.config import TransformerConfig
from train.checkpoints import checkpointer, networks, saved_models
from train.step import TrainState


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
    params = jax.jit(lambda key: nn.unbox(networks.init_params(role, model, key)))
    zero = {"step": np.asarray(0, np.int32)}
    saver = checkpointer.Checkpointer(workdir, keep=1)
    saver.save(TrainState(jnp.int32(0), {role: params(jax.random.key(seed))}, zero, zero), {})
    saver.close()
