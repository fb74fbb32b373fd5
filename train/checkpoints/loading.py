"""Models of a workdir, loaded from its newest checkpoint or from that of a step."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from model.config import TransformerConfig
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import checkpointer, fingerprints, networks, saved_models


def load_params(workdir: epath.PathLike, role: str, abstract: Any, step: int | None = None) -> Any:
    """A role's weights in a workdir, by default the newest, adapters merged, with the shardings of
    `abstract`.

    Raises:
      ConfigError: there is no finished checkpoint, or its frozen weights have changed.
    """
    item = saved_models.ITEM_OF.get(role, role)
    networks.check_memory(abstract, f"the {item} of {workdir}")
    parts = saved_models.read_parts(workdir, item)
    if parts is None:
        return checkpointer.restore_item(workdir, item, abstract, step)
    part, origin = parts
    trained = checkpointer.restore_item(workdir, item, part.trained(abstract), step)
    base, base_fingerprint = load_base(origin["from"], origin["role"], item, abstract)
    check_origin(workdir, origin, base_fingerprint)
    frozen = part.freeze(part.split(base)[1])
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(part.merge, out_shardings=shardings)(trained, frozen)


def check_origin(
    workdir: epath.PathLike, origin: saved_models.Origin, fingerprint_now: str
) -> None:
    """Refuses frozen weights with another fingerprint than those that the run was trained with.

    Raises:
      ConfigError: it is another.
    """
    if fingerprint_now != origin["fingerprint"]:
        raise ConfigError(
            f"{workdir} was trained with the frozen weights of {origin['from']} "
            f"({origin['fingerprint']}), which have changed ({fingerprint_now}). Restore them"
        )


def load_base(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> tuple[Any, str]:
    """Another run's weights for a role to start from.

    Args:
      origin: the role of those weights; from another kind of network only the backbone is taken.
      abstract: shapes and shardings of `role`'s parameters.

    Returns:
      (parameters, fingerprint of the whole model they are from).
    """
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    whole = identity(workdir, origin, params)
    return (params if origin == role else _backbone(params, abstract)), whole


def load_from(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """The parameters of `load_base`, without the fingerprint."""
    params = load_params(workdir, origin, origin_shapes(workdir, origin, role, abstract))
    return params if origin == role else _backbone(params, abstract)


def origin_shapes(workdir: epath.PathLike, origin: str, role: str, abstract: Any) -> Any:
    """Shapes and shardings of the parameters of `origin` in a workdir, from which `role` starts."""
    if origin == role:
        return abstract
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    return networks.abstract_params(origin, saved_models.model_config(workdir, origin), mesh)


def _backbone(params, abstract):
    weights = params.get("backbone", params)
    return {"backbone": {k: weights[k] for k in abstract["backbone"]}}


def identity(workdir: epath.PathLike, role: str, params: Any) -> str:
    """The fingerprint of a role's loaded weights. For merged weights it joins those of the base and
    of the trained part, which do not depend on how a mesh rounds the sum."""
    parts = saved_models.read_parts(workdir, saved_models.ITEM_OF.get(role, role))
    if parts is None:
        return fingerprints.fingerprint(params)
    part, origin = parts
    trained = part.trained(networks.to_abstract(params))
    saved = checkpointer.restore_item(workdir, role, trained)
    return f"{origin['fingerprint']}+{fingerprints.fingerprint(saved)}"


def load(
    workdir: epath.PathLike,
    item: str = "",
    mesh: jax.sharding.Mesh | None = None,
    step: int | None = None,
) -> tuple[TransformerConfig, Any]:
    """Loads a model of a workdir, whatever mesh it was saved on.

    Args:
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      mesh: the devices that the weights go to; by default one device.
      step: of the checkpoint; by default the newest valid one.

    Returns:
      (TransformerConfig, params) for `Transformer(config)`, `value_model(config)` or
      `reward_model(config)`.
    """
    item = item or next(iter(saved_models.read_models(workdir)))
    config = saved_models.model_config(workdir, item)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = networks.abstract_params(item, config, mesh)
    return config, load_params(workdir, item, abstract, step)
