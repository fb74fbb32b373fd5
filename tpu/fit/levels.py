"""The prediction of a run with ramps (train/assembly/ramps.py): every level has a program of its
own, and so seconds, tokens and FLOPs of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from train.assembly import ramps
from train.config.run import RunConfig

_COSTS = ("predicted_step_seconds", "tokens_per_step", "flops_per_step_per_chip")


def with_levels(
    report: Mapping[str, Any],
    config: RunConfig,
    shards: int,
    compile_one: Callable[[RunConfig], dict[str, Any]],
) -> dict[str, Any]:
    """The report of a run's last level, with the entry `levels` if the run has several; that of the
    first level which does not fit, if there is one.

    Args:
      report: of the settings `config`. shards: of a batch (`sharding.batch_shards`).
      compile_one: settings -> report.
    """
    levels = ramps.levels(config, shards)
    if len(levels) == 1 or not report["fits"]:
        return dict(report)
    reports = {levels[-1].shape: dict(report)}
    for level in levels:
        if level.shape not in reports:
            rows, length = level.shape
            print(f"compiling for batches of {rows:,} rows of {length:,} tokens …", flush=True)
            data = dataclasses.replace(level.config.data, batch_size=rows)
            found = compile_one(dataclasses.replace(level.config, data=data))
            if not found["fits"]:
                return found | {"error": f"batches of {rows:,} × {length:,}: {found['error']}"}
            reports[level.shape] = found
    entries = [
        {"first_step": level.steps.start, "rows": level.shape[0], "length": level.shape[1]}
        | {name: reports[level.shape][name] for name in _COSTS}
        for level in levels
    ]
    return dict(report) | {"levels": entries}


def costs(report: Mapping[str, Any], name: str) -> list[tuple[range, float]]:
    """(steps, entry `name` of the report of each) of every level; the last one's steps have no
    end."""
    levels = report.get("levels") or [{**report, "first_step": 0}]
    starts = [level["first_step"] for level in levels]
    ends = [*starts[1:], 2**62]
    return [
        (range(start, end), level[name]) for start, end, level in zip(starts, ends, levels)
    ]  # fmt: skip


def spent(report: Mapping[str, Any], name: str, steps: range) -> float:
    """The sum of an entry of the report, `predicted_step_seconds` for one, over some steps."""
    return sum(
        len(range(max(part.start, steps.start), min(part.stop, steps.stop))) * cost
        for part, cost in costs(report, name)
    )


def mfu(report: Mapping[str, Any], steps: range) -> float:
    """The predicted MFU of some steps."""
    peak = report["flops_per_step_per_chip"] / report["predicted_step_seconds"]
    peak /= report["predicted_mfu"]
    flops = spent(report, "flops_per_step_per_chip", steps)
    return flops / spent(report, "predicted_step_seconds", steps) / peak
