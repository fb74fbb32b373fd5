"""Models of runs, loaded by name, as RUN, RUN@STEP and RUN@ema (train/config/run_names.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from model.config import TransformerConfig
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import checkpointer, fingerprints, networks, saved_models, verification
from train.config.run_names import check_step, split_step


def check_names(names: Mapping[str, epath.PathLike]) -> None:
    """Refuses names of models, {role: name}, of which there is no checkpoint, without reading any.

    Raises:
      ConfigError: naming the nearest step that there is.
    """
    for role, name in names.items():
        workdir, step = split_step(name)
        if step is not None:
            check_step(workdir, step, verification.steps(workdir))
        saved_models.item_of(name, role)


def load_params(name: epath.PathLike, role: str, abstract: Any) -> Any:
    """A role's weights, adapters merged, with the shardings of `abstract`.

    Raises:
      ConfigError: there is no finished checkpoint, or its frozen weights have changed.
    """
    trained_role = saved_models.ITEM_OF.get(role, role)
    networks.check_memory(abstract, f"the {trained_role} of {name}")
    parts = saved_models.read_parts(name, role)
    if parts is None:
        return checkpointer.restore_item(name, role, abstract)
    part, origin = parts
    trained = checkpointer.restore_item(name, role, part.trained(abstract))
    base, base_fingerprint = load_base(origin["from"], origin["role"], trained_role, abstract)
    check_origin(name, origin, base_fingerprint)
    frozen = part.freeze(part.split(base)[1])
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(part.merge, out_shardings=shardings)(trained, frozen)


def check_origin(name: epath.PathLike, origin: saved_models.Origin, fingerprint_now: str) -> None:
    """Refuses frozen weights with another fingerprint than those that the run was trained with.

    Raises:
      ConfigError: it is another.
    """
    if fingerprint_now != origin["fingerprint"]:
        raise ConfigError(
            f"{name} was trained with the frozen weights of {origin['from']} "
            f"({origin['fingerprint']}), which have changed ({fingerprint_now}). Restore them"
        )


def load_base(name: epath.PathLike, origin: str, role: str, abstract: Any) -> tuple[Any, str]:
    """Another run's weights for a role to start from.

    Args:
      origin: the role of those weights; from another kind of network only the backbone is taken.
      abstract: shapes and shardings of `role`'s parameters.

    Returns:
      (parameters, fingerprint of the whole model they are from).
    """
    params = load_params(name, origin, origin_shapes(name, origin, role, abstract))
    whole = identity(name, origin, params)
    return (params if origin == role else _backbone(params, abstract)), whole


def load_from(name: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """The parameters of `load_base`, without the fingerprint."""
    params = load_params(name, origin, origin_shapes(name, origin, role, abstract))
    return params if origin == role else _backbone(params, abstract)


def origin_shapes(name: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """Shapes and shardings of the parameters of `origin` in a run, from which `role` starts."""
    if origin == role:
        return abstract
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    return networks.abstract_params(origin, saved_models.model_config(name, origin), mesh)


def _backbone(params, abstract):
    weights = params.get("backbone", params)
    return {"backbone": {k: weights[k] for k in abstract["backbone"]}}


def identity(name: epath.PathLike, role: str, params: Any) -> str:
    """The fingerprint of a role's loaded weights. For merged weights it joins those of the base and
    of the trained part, which do not depend on how a mesh rounds the sum."""
    parts = saved_models.read_parts(name, role)
    if parts is None:
        return fingerprints.fingerprint(params)
    part, origin = parts
    trained = part.trained(networks.to_abstract(params))
    saved = checkpointer.restore_item(name, role, trained)
    return f"{origin['fingerprint']}+{fingerprints.fingerprint(saved)}"


def load(
    name: epath.PathLike, item: str = "", mesh: jax.sharding.Mesh | None = None
) -> tuple[TransformerConfig, Any]:
    """Loads a model of a run, whatever mesh it was saved on.

    Args:
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      mesh: the devices that the weights go to; by default one device.

    Returns:
      (TransformerConfig, params) for `Transformer(config)`, `value_model(config)` or
      `reward_model(config)`.
    """
    item = item or next(iter(saved_models.read_models(name)))
    config = saved_models.model_config(name, item)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = networks.abstract_params(item, config, mesh)
    return config, load_params(name, item, abstract)
