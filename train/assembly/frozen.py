"""The frozen weights of a run, and those that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from model.config import TransformerConfig
from ranges import ConfigError
from train.assembly import partition as parts_
from train.assembly.inputs import origin_of
from train.assembly.partition import Partition
from train.checkpoints import loading, networks
from train.config.run import RunConfig
from train.objectives.base import Objective


def load_frozen(
    config: RunConfig,
    objective: Objective,
    models: Mapping[str, TransformerConfig],
    mesh: jax.sharding.Mesh,
    parts: Mapping[str, Partition],
    whole: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, dict]]:
    """({role: frozen weights}, {role: their origin and fingerprint, for the checkpoint}).

    If the policy starts from the reference, both share the policy's frozen arrays.

    Args:
      parts: partitions of the trained roles (train/assembly/partition.py).
      whole: shapes of all of their parameters.
    """
    frozen, origins, initial = {}, {}, {}
    for role, part in parts.items():
        if part.frozen:
            base, origins[role] = load_base(config, objective, role, part, whole[role])
            initial[role], frozen[role] = part.split(base)
            frozen[role] = part.freeze(frozen[role])
    for role in (*objective.frozen, *objective.optional):
        if role not in models:
            continue
        path = config.init_from.get(role) or config.init_from["policy"]
        if role == "reference" and "policy" in frozen and path == config.init_from["policy"]:
            frozen[role] = parts_.join_trees(frozen["policy"], initial["policy"])
            origins[role] = origins["policy"]
            continue
        abstract = networks.abstract_params(role, models[role], mesh)
        frozen[role] = loading.load_params(path, role, abstract)
        identity = loading.identity(path, role, frozen[role])
        origins[role] = {"from": path, "fingerprint": identity}
    return frozen, origins


def load_base(
    config: RunConfig, objective: Objective, role: str, part: Partition, abstract: Mapping[str, Any]
) -> tuple[dict, dict[str, str]]:
    """(weights from which a partly frozen role starts, their origin).

    Raises:
      ConfigError: a frozen weight would be random.
    """
    origin = origin_of(config, objective, role)
    if origin is None:
        raise ConfigError(
            f"weights of the {role} are frozen (freeze.*, lora.*), and it starts from no trained "
            f"model; type --config.init_from.{objective.origins[role][0]}=WORKDIR"
        )
    path = config.init_from[origin]
    base, identity = loading.load_base(path, origin, role, abstract)
    for name in sorted(part.frozen - flatten_dict(base).keys()):
        raise ConfigError(
            f"{role}/{'/'.join(name)} is frozen, and init_from.{origin}={path} has no such weight: "
            "it would stay random. Let freeze.trained match it"
        )
    return base, {"from": path, "role": origin, "fingerprint": identity}
