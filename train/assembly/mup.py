"""μP's learning rates (Yang et al. 2022, arXiv:2203.03466) around the optimizer of a run.

Its initial weights, attention and logits: `parametrization` in model/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax

from model import weights
from ranges import ConfigError
from train.optimizer import OptimizerConfig

# {optimizer that has rules: whether its updates of hidden matrices are orthogonal}
ORTHOGONAL = {"adamw": False, "adafactor": False, "muon": True}


def rate_factor(name: str, ratio: float, optimizer: str) -> float:
    """The factor of the learning rate of a weight, by its last name; 1 without μP, where the ratio
    is 1."""
    return 1.0 if ratio == 1 else weights.mup_rate(name, ratio, ORTHOGONAL[optimizer])


def scale_rates(
    tx: optax.GradientTransformationExtraArgs,
    configs: Mapping[str, OptimizerConfig],
    ratios: Mapping[str, float],
) -> optax.GradientTransformationExtraArgs:
    """`tx` with the learning rate of each weight multiplied by `weights.mup_rate`; its state is
    unchanged, and so is the decay per step, which then keeps weights of all widths equally small.

    Args:
      configs, ratios: {role: the settings of its optimizer, `TransformerConfig.width_ratio`}.

    Raises:
      ConfigError: there are no rules for an optimizer.
    """
    if all(ratio == 1 for ratio in ratios.values()):
        return tx
    for role, c in configs.items():
        if ratios[role] != 1 and c.name not in ORTHOGONAL:
            raise ConfigError(
                f"model.parametrization=mup has no rules for optimizer.name={c.name}; choose "
                f"{', '.join(ORTHOGONAL)}, or model.parametrization=standard"
            )

    def factor(path) -> float:
        role = path[0].key
        return rate_factor(path[-1].key, ratios[role], configs[role].name)

    def update(updates, state, params: Any, **rates):
        # The update rules read no parameter but to decay it, in proportion.
        params = jax.tree_util.tree_map_with_path(lambda path, p: p / factor(path), params)
        updates, state = tx.update(updates, state, params, **rates)
        updates = jax.tree_util.tree_map_with_path(lambda path, u: u * factor(path), updates)
        return updates, state

    return optax.GradientTransformationExtraArgs(tx.init, update)
