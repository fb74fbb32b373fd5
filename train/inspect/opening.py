"""Opening a model to look inside, without reading its arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from flax.traverse_util import flatten_dict

from data.text import tokenizer as tokenizers
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import networks, saved_models
from train.config.run_names import split_name
from train.inspect import sources, tree
from train.inspect.model import Model
from train.interop import opening, published


def open(
    name: epath.PathLike, role: str = "", mesh: jax.sharding.Mesh | None = None, dtype: str = ""
) -> Model:
    """Opens a model to look inside. Its arrays are read when they are touched.

    Args:
      name: a run, RUN@STEP, RUN@ema or RUN@STEP@ema for the averages of its weights, a Hugging
        Face directory, a `.gguf` file, or OWNER/MODEL on the hub.
      role: of a workdir's model, as `policy`, `reward`, `value`; by default the first that the run
        trained.
      mesh: the devices on which it computes; by default one.
      dtype: of the computation, `float32` or `bfloat16`; by default the model's.

    Raises:
      ConfigError: there is no such model or step, or a file of it is damaged.
    """
    name = str(name)
    path, step, averages = parts = split_name(name)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    if opening.is_run(path):
        models = saved_models.read_models(path)
        role = role or next(iter(models))
        if role not in networks.NETWORKS or saved_models.ITEM_OF.get(role, role) not in models:
            raise ConfigError(f"{path} has no {role} model; it has {', '.join(models)}")
        config = saved_models.model_config(path, role)
        abstract = networks.abstract_params(role, config, mesh)
        step, arrays = sources.of_run(name, role, abstract)
        tokenizer = tokenizers.load(path)
    else:
        if step is not None or averages or role not in ("", "policy"):
            opening.open_model(name, role)  # says what is wrong
        role, source = "policy", published.open_source(path)
        tokenizer, _ = published.chat_tokenizer(source, path)
        config = source.config
        abstract = published.abstract_params(source, mesh, "float32")
        arrays = sources.of_open_model(config, source.reader, abstract)
    boxed = jax.eval_shape(lambda key: networks.init_params(role, config, key), jax.random.key(0))
    axes = {path: _names(leaf) for path, leaf in flatten_dict(boxed).items()}
    if dtype:
        config = dataclasses.replace(config, dtype=dtype)
    at = str(parts._replace(step=step))
    return Model(at, role, config, tokenizer, tree.build(axes, arrays, at), mesh, open)


def _names(leaf: Any) -> tuple[str, ...]:
    return tuple(map(str, leaf.names)) if isinstance(leaf, nn.Partitioned) else ()
