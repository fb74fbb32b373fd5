"""Sweeps in tests: recipes with texts applied as on a command line, and a loop that only writes the
metrics of a formula."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from ranges import ConfigError
from train.config.names import suggest
from train.config.run import RunConfig, build, default, keys, literal
from train.sweep import command
from train.sweep.metric import Metric
from train.sweep.results import DIVERGED, FINISHED, Measured, Result

FLAGS = {
    "grid": [], "zip": [], "random": [], "log_uniform": [], "trials": 0, "seed": 0, "seeds": 1,
    "search": "all", "metric": "", "mode": None, "parallel": 1, "launch": "", "at_once": None,
    "dry_run": False, "compilation_cache": "auto",
}  # fmt: skip
STEPS = (0, 2, 4)


def build_with(recipe: ml_collections.ConfigDict) -> Callable:
    """The `Build` of a recipe (train/sweep/trials.py)."""

    def build_point(point) -> RunConfig:
        config = recipe.copy_and_resolve_references()
        for key, text in point.items():
            group, _, leaf = key.rpartition(".")
            if key not in keys():
                raise ConfigError(f"unknown config key {key}{suggest(key, keys())}")
            inner = config[group] if group else config
            inner[leaf] = literal(text)
        return build(config)

    return build_point


def asked(
    workdir: Path, recipe: ml_collections.ConfigDict | None = None, **flags: Any
) -> command.Sweep:
    """The sweep of some flags."""
    recipe = recipe or default()
    return command.asked(str(workdir), FLAGS | flags, build_with(recipe))


def loss(config: RunConfig, step: int) -> float:
    """A loss that falls with the steps, is least at a rate of 0.01, and less with Muon."""
    start = 5.0 - 0.5 * step
    rate = abs(math.log10(config.optimizer.peak_lr) + 2) * 0.25 * step
    muon = 0.1 * step if config.optimizer.name == "muon" else 0.0
    return round(start + rate - muon + 0.01 * config.seed, 6)


def pretend(
    config: Any, workdir: Path, position: str, hooks: Any,
    fails: Callable = lambda config, step: None,
) -> None:  # fmt: skip
    """`loop.run` without training.

    Args:
      fails: may raise, before each evaluation.
    """
    path = Path(workdir) / "metrics.jsonl"
    path.write_text("")
    for step in STEPS:
        fails(config, step)
        values = {"loss": loss(config, step), "bits_per_byte": 1.0}
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": "eval", **values}) + "\n")
        hooks.after_evaluation(step, values)


LOSS = Metric("loss", True, "nats a token")


def result(finals: Mapping[int, float | None], **settings: Any) -> Result:
    """A trial with {seed: final value}; None for a run that diverged."""
    runs = {
        seed: Measured(FINISHED, "", [(0, 9.0), (4, x)], [], x, (4, x))
        if x is not None
        else Measured(DIVERGED, "not finite", [], [], None, None)
        for seed, x in finals.items()
    }
    return Result(",".join(f"{k}={v}" for k, v in settings.items()), settings, runs)
