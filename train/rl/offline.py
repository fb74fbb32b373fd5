"""Sampling outside of training: the prompts, the policy and the rewards of a recipe."""

from __future__ import annotations

from train import assemble
from train.config.run import RunConfig
from train.objectives import registry
from train.rl.sampler import Sampler
from train.runtime import checkpoint


def open_sampler(
    config: RunConfig, workdir, mesh, roles, open_data=None
) -> tuple[Sampler, dict[str, dict]]:
    """(a sampler, {role: parameters}); call it under `jax.set_mesh(mesh)`.

    Args:
      roles: those of `config.init_from` whose weights are loaded. open_data: as in train/loop.py.

    Raises:
      ConfigError, DataError: as the recipe's stage would.
    """
    row = registry.check(config, mesh)
    ctx = assemble.open_context(config, row, workdir, mesh, None, open_data)
    params = {}
    for role in roles:
        abstract = checkpoint.abstract_params(role, ctx.models[role], mesh)
        params[role] = checkpoint.load_params(config.init_from[role], role, abstract)
    return Sampler(ctx), params
