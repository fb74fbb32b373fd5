"""Sampling outside of training, with the prompts, the policy and the rewards of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
from etils import epath

from data.pipeline import Data
from data.text.base import Tokenizer
from train.assembly import inputs
from train.checkpoints import loading, networks
from train.config.run import RunConfig
from train.objectives import registry
from train.rl.sampler import Sampler


def open_sampler(
    config: RunConfig,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh,
    roles: Iterable[str],
    open_data: Callable[[Tokenizer], Data] | None = None,
) -> tuple[Sampler, dict[str, dict]]:
    """(a sampler, {role: parameters}); call it under `jax.set_mesh(mesh)`.

    Args:
      roles: the roles of `config.init_from` to load weights of. open_data: as in train/loop.py.

    Raises:
      ConfigError, DataError: as the recipe's stage would.
    """
    objective = registry.validate(config, mesh)
    ctx = inputs.open_context(config, objective, workdir, mesh, None, open_data)
    params = {}
    for role in roles:
        abstract = networks.abstract_params(role, ctx.models[role], mesh)
        params[role] = loading.load_params(config.init_from[role], role, abstract)
    return Sampler(ctx), params
