"""Several runs as one frame: what they are, what they cost, and where their settings differ."""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from data.errors import DataError
from data.read import json_files
from model.config import TransformerConfig
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.assembly import ramps
from train.assembly.partition import divide
from train.checkpoints import networks, saved_models, saved_steps
from train.config.run import RunConfig, build
from train.inspect import show
from train.inspect.records.files import RunFiles, read_runs
from train.objectives import registry
from train.runtime import flops
from train.terminal.console import print_error

if TYPE_CHECKING:
    import pandas as pd

# {pattern of metrics of evaluations: which value is the best, or "" where none is}; also those of
# `config.evals`, which begin with a name.
METRICS = {
    "loss": "min",
    "bits_per_byte": "min",
    "perplexity": "min",
    "accuracy": "max",
    "accuracy/overall": "max",
    "accuracy_norm": "max",
    "exact_match": "max",
    "f1": "max",
    "score": "max",
    "win_rate": "max",
    "kl": "",
}


def runs(
    pattern: epath.PathLike | Sequence[epath.PathLike], metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """A frame with a row a run, named by its workdir; a chain's folder stands for its runs.

    | column | meaning |
    |---|---|
    | stage | pretrain, sft, … |
    | status | `finished`, `ended at step N` by `evaluate.patience`, or `at step N` |
    | step | optimizer steps taken |
    | tokens | that its updates have read, padding included |
    | flops | of its updates and rollouts (train/runtime/flops.py) |
    | seconds | of all its attempts (goodput.json) |
    | last NAME, best NAME | a metric of its evaluations, or of training if it has none |
    | *a setting* | that is not the same in all runs |

    What cannot be known is missing in the frame; a folder without a run is named on standard error.

    Args:
      pattern: as `runs/*`; a workdir; or several. metrics: patterns of the names of metrics, as
        `arc_easy/*`, besides the usual ones.

    Raises:
      ConfigError: no folder holds a run.
    """
    pandas = show.imported("pandas")
    every = read_runs(pattern)
    rows = {run.name: _facts(run) | _metrics(run, metrics) for run in every}
    settings = [run.flat for run in every]
    names = list(dict.fromkeys(name for flat in settings for name in flat))
    for name in names:
        if name == "stage" or len({repr(flat.get(name)) for flat in settings}) == 1:
            continue
        for run, flat in zip(every, settings, strict=True):
            rows[run.name][name] = flat.get(name)
    frame = pandas.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    # Settings last: a metric that only a later run has came behind those of the first.
    return frame[sorted(frame, key=lambda column: column in names and column != "stage")]


def _facts(run: RunFiles) -> dict[str, Any]:
    """The columns before the metrics."""
    trained = run.records.get("train", [])
    steps = max([r["step"] for r in trained], default=0)
    planned = run.settings.get("steps", 0)
    saved, _ = saved_steps.read(run.workdir) or ([], {})
    last = max([steps, *saved])
    ended = any(record["step"] == last for record in run.records.get("ended", []))
    status = f"ended at step {last}" if ended else f"at step {steps}"
    facts = {
        "stage": run.settings["stage"],
        "status": "finished" if planned and last >= planned else status,
        "step": steps,
        "tokens": math.nan,
        "flops": math.nan,
        "seconds": _seconds(run),
    }
    try:
        facts |= _recorded(trained) or cost(run, steps)
    except (ConfigError, DataError, KeyError) as error:
        print_error(f"warning: {run.name}: tokens and FLOPs are not known ({error})")
    return facts


def _recorded(trained: Sequence[dict]) -> dict[str, float]:
    """{`tokens`, `flops`} of the last record of training; empty if an earlier version made it."""
    last = max(trained, key=lambda record: record["step"], default={})
    return {name: last[name] for name in ("tokens", "flops")} if "flops" in last else {}


def _seconds(run: RunFiles) -> float:
    """Seconds of all attempts."""
    path = run.workdir / "goodput.json"
    try:
        parts = json_files.read(path)["seconds"] if path.exists() else {}
        if parts:
            return round(sum(parts.values()), 1)
    except (DataError, KeyError, TypeError, AttributeError) as error:
        print_error(f"warning: {path} is not read ({error})")
    records = [record for kind in run.records.values() for record in kind]
    return max([r.get("elapsed_seconds", math.nan) for r in records], default=math.nan)


def cost(run: RunFiles, steps: int) -> dict[str, float]:
    """{`tokens`, `flops`} of the first `steps` updates of a run whose records lack them, and of the
    rollouts that its metrics name; from its settings and architectures alone, without its data.

    Raises:
      ConfigError, DataError: they cannot be read, as a model that it starts from is gone.
    """
    config = build(run.settings)
    row = registry.find(config)
    models = _models(run, config)
    weights = {role: _weights(role, models[role]) for role in row.trainable}
    sub_rows = config.data.sub_rows if row.schema == "preference" else 1
    tokens, total, parts = 0, 0.0, divide(config, weights)
    for level in ramps.levels(config):
        settings, count = level.config, level.among(steps)
        each = settings.data.batch_size * flops.row_length(config) * sub_rows
        total += count * flops.of_step(settings, models, weights, parts, each)
        tokens += count * each
    for _, _, draws in run.values("train", "rollout/draws"):
        total += flops.of_rollout(config, models, draws)
    return {"tokens": tokens, "flops": total}


def _models(run: RunFiles, config: RunConfig) -> dict[str, TransformerConfig]:
    """{role: architecture} of the roles that cost: those that are trained, and in rollouts the
    reference, which is the policy's, and the reward model."""
    trained = saved_models.read_models(run.workdir)
    models = {role: saved_models.model_config(run.workdir, role) for role in trained}
    if registry.find(config).rollouts:
        models["reference"] = models["policy"]
        if path := config.init_from.get("reward"):
            models["reward"] = saved_models.model_config(path, "reward")
    return models


@functools.lru_cache(maxsize=64)
def _weights(role: str, model: TransformerConfig) -> Any:
    """The shapes of a role's parameters."""
    return networks.abstract_params(role, model, make_mesh(MeshConfig(), jax.devices()[:1]))


def _metrics(run: RunFiles, also: Sequence[str]) -> dict[str, float]:
    """{`last NAME`, `best NAME`: value}, of the last and of the best evaluation."""
    kind = "eval" if run.metrics("eval") else "train"
    keeping = run.settings.get("checkpoint", {})
    chosen = {keeping.get("best"): keeping.get("best_mode", "min")} if keeping.get("best") else {}
    columns = {}
    for name in run.metrics(kind):
        best = chosen.get(name, _best(name))
        asked = any(fnmatch.fnmatch(name, one) for one in also)
        values = [value for _, _, value in run.values(kind, name)]
        if not values or (best is None and not asked):
            continue
        columns[f"last {name}"] = values[-1]
        if best:
            columns[f"best {name}"] = min(values) if best == "min" else max(values)
    return columns


def _best(metric: str) -> str | None:
    """`min` or `max`, "" for a metric of which no value is the best, None for one not in METRICS.

    A metric of an evaluation of `config.evals` begins with the evaluation's name.
    """
    names = metric, metric.partition("/")[2]
    return next((METRICS[name] for name in names if name in METRICS), None)
