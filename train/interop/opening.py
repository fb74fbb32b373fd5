"""Models opened by name: a run, a run at a step, or an open model."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from etils import epath

from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from model.config import TransformerConfig
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import loading, saved_models
from train.config.run_names import split_name, split_step
from train.interop import published


class Opened(NamedTuple):
    """A model with its tokenizer.

    Attributes:
      name: as it was given. role: `policy`, `value`, `reward`, …
      config, params: for the network of the role (train/checkpoints/networks.py).
    """

    name: str
    role: str
    config: TransformerConfig
    params: Any
    tokenizer: Tokenizer


def is_run(name: str) -> bool:
    """Whether a name, without a step, is that of a workdir with a model."""
    return (epath.Path(name) / "models.json").exists()


def open_model(
    name: str, role: str = "", mesh: jax.sharding.Mesh | None = None, dtype: str = ""
) -> Opened:
    """Opens a model.

    Args:
      name: a run, RUN@STEP, RUN@ema or RUN@STEP@ema for the averages of its weights, a Hugging
        Face directory, a `.gguf` file, or OWNER/MODEL on the hub.
      role: of a workdir's model; by default the first that the run trained.
      mesh: the devices that the weights go to; by default one device.
      dtype: of the computation, `float32` or `bfloat16`; by default the model's.

    Raises:
      ConfigError: there is no such model or step, or it is damaged.
    """
    path, step, averages = split_name(name)
    if is_run(path):
        role = role or next(iter(saved_models.read_models(path)))
        config, params = loading.load(name, role, mesh)
        tokenizer = tokenizers.load(path)
    elif step is not None or averages:
        part = f"step {step}" if step is not None else "averages of weights"
        raise ConfigError(f"{path} is not the workdir of a run, so it has no {part}")
    elif role not in ("", "policy"):
        raise ConfigError(f"{name} is an open model, a policy; it has no {role} model")
    else:
        role = "policy"
        mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
        config, params, tokenizer = published.open_whole(name, mesh)
    if dtype:
        config = dataclasses.replace(config, dtype=dtype)
    return Opened(name, role, config, params, tokenizer)


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model, without its weights. `name` and errors: see `open_model`."""
    path, _ = split_step(name)
    if is_run(path):
        return tokenizers.load(path)
    tokenizer = published.open_source(name).tokenizer
    assert tokenizer is not None  # it was asked for
    return tokenizer
