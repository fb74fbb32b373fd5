"""Learning rates of the updates, by model and by group of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model import weights
from train import optimizer
from train.assembly import mup
from train.assembly.run import Run, optimizer_configs
from train.rl.forward import CRITICS


def _groups(c: optimizer.OptimizerConfig, ratio: float, params: Any) -> dict[str, float]:
    """{group: factor} of the learning rate, of `lr_multipliers` and of μP; `GROUP_min` and
    `GROUP_max` where its weights have several. Empty if no factor is set.

    Args:
      ratio: `TransformerConfig.width_ratio`. params: {role: weights}.
    """
    if ratio == 1 and not c.lr_multipliers:
        return {}
    factors: dict[str, set[float]] = {}
    for path, factor in optimizer.rate_factors(c.lr_multipliers, params).items():
        factor *= mup.rate_factor(path[-1], ratio, c.name)
        factors.setdefault(weights.group(path[-1]) or "other", set()).add(factor)
    out = {}
    for group, values in factors.items():
        several = {f"{group}_min": min(values), f"{group}_max": max(values)}
        out |= several if len(values) > 1 else {group: min(values)}
    return out


def learning_rates(run: Run) -> Callable[[Any], dict[str, float]]:
    """The function (optimizer state after an update) -> the metrics `learning_rate` and, of a
    critic, `value_learning_rate`; with `optimizer.lr_multipliers` or μP also
    `learning_rate/GROUP`."""
    rates_of, params = optimizer.learning_rates(run.rates), run.abstract.trainable
    configs, models = optimizer_configs(run.ctx.config, params), run.ctx.models
    groups = {
        role: _groups(c, models[role].width_ratio, {role: params[role]})
        for role, c in configs.items()
    }

    def metrics(opt_state) -> dict[str, float]:
        values = {}
        for role, rate in rates_of(opt_state).items():
            name = "value_learning_rate" if role in CRITICS else "learning_rate"
            values[name] = rate
            values |= {f"{name}/{group}": rate * x for group, x in groups[role].items()}
        return values

    return metrics
