"""The weights and the state of a run as shapes with shardings, without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # JAX is imported after the environment is set
    from model.config import TransformerConfig
    from train.assembly.partition import Partition
    from train.config.run import RunConfig
    from train.objectives.base import Objective
    from train.step import TrainState

GIB = 2**30


class AbstractRun(NamedTuple):
    """A run on a mesh, of which no array exists.

    Attributes:
      config: with a workdir for every role that the stage needs, which is not read.
      models: {role: architecture}. whole: {role: all its parameters}. parts: {trained role: its
        partition}. frozen: {role: frozen parameters}. state: its source is empty.
    """

    config: RunConfig
    objective: Objective
    models: dict[str, TransformerConfig]
    whole: dict[str, Any]
    parts: dict[str, Partition]
    frozen: dict[str, Any]
    state: TrainState
    tx: Any


def validate(config: RunConfig, mesh: Any) -> tuple[RunConfig, Objective]:
    """(settings with a workdir for every role that the stage needs, its objective), checked against
    a mesh. Raises ConfigError: as in a run."""
    from train.objectives import registry

    granted = {role: "a workdir" for role in registry.find(config).required}
    config = dataclasses.replace(config, init_from=granted | dict(config.init_from))
    return config, registry.validate(config, mesh)


def assemble(
    config: RunConfig,
    mesh: Any,
    models: Mapping[str, TransformerConfig] | int,
) -> AbstractRun:
    """The abstract run of some settings.

    Args:
      mesh: a `jax.sharding.Mesh` or `AbstractMesh`.
      models: {role: architecture}, of which roles that are missing take the first; or the size of
        the tokenizer, and `config.model` has the architecture of all.

    Raises:
      ConfigError, ShardingError: as in a run.
    """
    from train.assembly import partition as parts_
    from train.assembly import run as assemble_
    from train.checkpoints import networks

    config, row = validate(config, mesh)
    roles = (*row.trainable, *row.frozen, *(r for r in row.optional if r in config.init_from))
    if isinstance(models, int):
        models = {role: config.model.build(models) for role in roles}
    first = next(iter(models.values()))
    models = {role: models.get(role, first) for role in roles}
    whole = {r: networks.abstract_params(r, models[r], mesh) for r in roles}
    parts = parts_.divide(config, {r: whole[r] for r in row.trainable})
    trainable = {r: part.trained(whole[r]) for r, part in parts.items()}
    frozen = {r: p.freeze(p.split(whole[r])[1]) for r, p in parts.items() if p.frozen}
    frozen |= {r: whole[r] for r in roles if r not in row.trainable}
    source = SimpleNamespace(init=dict)
    state, tx = assemble_.abstract_state(config, models, trainable, mesh, source)
    return AbstractRun(config, row, models, whole, parts, frozen, state, tx)


def gib(tree: Any) -> float:
    """GiB that one device holds of a tree of `jax.ShapeDtypeStruct` with shardings."""
    import jax
    import numpy as np

    shards = ((x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree))
    return sum(float(np.prod(shape)) * size for shape, size in shards) / GIB
