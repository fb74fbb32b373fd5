"""The runs of a ladder: a size and a budget each, trained one after the other in one process."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
from etils import epath

from data.atomic import write_atomically
from model import weights
from model.config import TransformerConfig
from ranges import ConfigError
from train import loop
from train.assembly import ramps
from train.checkpoints import saved_models
from train.config import budget
from train.config.run import RunConfig, build, literal
from train.config.saved import recipe_of
from train.objectives import registry
from train.report import provenance
from train.runtime import outputs, processes
from train.runtime.records import read_metrics
from train.terminal import saved
from train.terminal.console import console, duration
from train.workflows import finished


class Rung(NamedTuple):
    """A finished run of a ladder.

    Attributes:
      parameters: N, embeddings included. tokens: D, padding included. flops: forward and backward,
        attention included. loss: held out, after the last step, in nats a token.
    """

    name: str
    size: str
    parameters: int
    tokens: int
    flops: float
    loss: float


def count(model: TransformerConfig) -> int:
    """The number of parameters of an architecture, embeddings included."""
    total = 0
    for part, copies in (("model", 1), ("layers", model.num_layers)):
        for row in weights.rows(model, part):
            total += copies * math.prod(weights.shape(row, model))
    return total


def with_size(recipe: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
    """A copy of a recipe with another size: `1m`, `embed_dim=64` or `1m+num_layers=2`."""
    recipe = recipe.copy_and_resolve_references()
    for part in size.split("+"):
        key, eq, value = part.partition("=")
        if not eq:
            recipe.model.size = part
        elif value:
            recipe.model[key] = literal(value)
        else:
            raise ConfigError(f"{key} has no value; write {key}=NUMBER")
    return recipe


def plan(
    recipe: ml_collections.ConfigDict, sizes: Sequence[str], budgets: Sequence[str]
) -> dict[str, tuple[str, RunConfig]]:
    """{name of a run: (its size, its settings)}, the cheap ones first.

    Raises:
      ConfigError: a size or a budget that there is not, the same one twice, or a recipe that does
        not pretrain from scratch.
    """
    if "stages" in recipe:
        raise ConfigError("--config is a chain, and a ladder is of one stage; name its recipe")
    if not sizes:
        raise ConfigError("--sizes names no size; type --sizes=tiny,1m or rows of model/sizes.py")
    base = build(recipe)
    if registry.find(base).schema != "text":
        raise ConfigError(
            f"stage={base.stage}: a ladder pretrains; use a recipe such as configs/pretrain.py"
        )
    if base.init_from:
        raise ConfigError("init_from is given, and no other size can start from those weights")
    if base.optimizer.schedule == "constant":
        console.print("  warning: optimizer.schedule=constant; the laws are of decayed rates")
    named: dict[TransformerConfig, str] = {}
    runs, order = {}, {}
    for size in sizes:
        try:
            config = build(with_size(recipe, size))
            model = config.model.build(config.tokenizer.vocab_size)  # type: ignore[attr-defined]
        except ValueError as e:
            raise ConfigError(f"--sizes={size}: {e}") from e
        if other := named.get(model):
            raise ConfigError(f"--sizes: {other} and {size} are the same model; leave one out")
        named[model] = size
        for text in budgets:
            amount, unit = budget.parse(text, "--tokens")
            if unit not in ("x", "tokens"):
                raise ConfigError(f"--tokens={text}; give 20x (tokens a parameter) or 1e9tokens")
            sized = with_size(recipe, size)
            sized.budget, name = text, f"{size}-{text}".replace("=", "")
            if name in runs:
                raise ConfigError(f"--tokens names {text} twice; leave one out")
            runs[name] = size, build(sized)
            order[name] = count(model) * amount * (count(model) if unit == "x" else 1)
    return {name: runs[name] for name in sorted(runs, key=order.__getitem__)}


def train(
    runs: Mapping[str, tuple[str, RunConfig]], workdir: epath.Path, begun: float | None = None,
    profile: range = range(0), allow_change: Collection[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Trains the runs that are not done; returns {name: why it failed} of those that did.

    The other arguments are those of `loop.run`.

    Raises:
      processes.Stopped: the process was asked to stop; the run is saved.
      ConfigError: a run was done with other settings.
    """
    done = finished.check(
        {name: config for name, (_, config) in runs.items()}, workdir, allow_change
    )
    failures: dict[str, str] = {}
    for number, (name, (_, config)) in enumerate(runs.items(), 1):
        if name in done:
            console.print(f"[green]✓[/] {name}: done", markup=True)
            continue
        if processes.asked_to_stop():
            raise processes.Stopped(saved.describe(workdir))
        console.print(f"[bold]▸ run {number}/{len(runs)}: {name}[/]", markup=True)
        since, begun = begun or time.time(), None
        train_one = functools.partial(
            loop.run, config, workdir / name, begun=since, profile=profile,
            allow_change=allow_change, position=f"{number}/{len(runs)} ",
        )  # fmt: skip
        _, reason = outputs.tried(name, train_one)
        if reason:
            failures[name] = reason
            console.print(f"[red]✗[/] {name}: {reason}", markup=True)
            continue
        seconds = time.time() - since
        if jax.process_index() == 0:
            note = {"seconds": round(seconds, 1), "made": provenance.current()}
            write_atomically(workdir / name / "DONE", json.dumps(note) + "\n")
        console.print(f"[green]✓[/] {name}: {duration(seconds)}", markup=True)
    return failures


def read(name: str, size: str, workdir: epath.Path) -> Rung:
    """A finished run.

    Raises:
      ConfigError: it has no held-out loss.
    """
    config = build(recipe_of(str(workdir)))
    model = saved_models.model_config(workdir, "policy")
    evaluations = [r for r in read_metrics(workdir, "eval") if r["step"] == config.steps]
    loss = evaluations[-1].get("loss") if evaluations else None
    if loss is None or not math.isfinite(loss):
        raise ConfigError(f"{workdir} has no held-out loss at step {config.steps}")
    tokens, cost = 0, 0.0
    for level in ramps.levels(config):
        rows, length = level.shape
        tokens += len(level.steps) * rows * length
        cost += weights.flops_per_token(model, length) * len(level.steps) * rows * length
    return Rung(name, size, count(model), tokens, cost, loss)


def vocab_size(workdir: epath.Path) -> int:
    """The number of ids of a run's tokenizer."""
    return saved_models.model_config(workdir, "policy").vocab_size
