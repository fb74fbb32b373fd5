"""A recorded rollout sampled again, and its updates made again, from a checkpoint of its run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import pyarrow as pa
from etils import epath

from data.read import json_files
from model import sharding
from ranges import ConfigError
from train.assembly.programs import jit_step
from train.assembly.run import Run, init_state, setup
from train.checkpoints import verification
from train.checkpoints.checkpointer import restore_state
from train.config import saved
from train.config.run import RunConfig, build
from train.guards.going_back import with_losses
from train.guards.settings import ROWS
from train.inspect.records import rollouts as recorded
from train.measures import statistics
from train.measures.rates import learning_rates
from train.rl import record
from train.runtime.records import read_metrics, read_records
from train.runtime.resume import check_resume, config_json
from train.step import TrainState, step_view
from train.terminal.progress import Progress

# Changes of a lineage that are of no setting: rows of data, and a fork.
NOT_SETTINGS = (*ROWS, "fork")
# Metrics of a rollout that are times.
_TIMES = ("rollout/seconds", "rollout/tokens_per_second")


class Difference(NamedTuple):
    """The first number that a replay does not repeat.

    Attributes:
      field: a column of the rollout (train/rl/record.py), or a metric. step: of the rollout, or of
        the update with the metric. row, token: of the rollout; None for a metric, and token also
        for a number of a whole answer.
    """

    field: str
    step: int
    row: int | None
    token: int | None
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        place = f"metric {self.field} of update {self.step}" if self.row is None else self.field
        place += f", row {self.row}" if self.row is not None else ""
        place += f", token {self.token}" if self.token is not None else ""
        return f"{place}: recorded {self.recorded!r:.60}, replayed {self.replayed!r:.60}"


class Replay(NamedTuple):
    """The outcome of a replay.

    Attributes:
      run. step: of the rollout. start: the checkpoint it began from; 0 is the run's start.
      answers, tokens: how many there are. updates: those whose metrics were compared. metrics: the
        number of their values. first: the first difference, or None. made: the JAX and the devices
        that recorded the rollout, and those of the replay.
    """

    run: str
    step: int
    start: int
    answers: int
    tokens: int
    updates: list[int]
    metrics: int
    first: Difference | None
    made: tuple[str, str]

    @property
    def equal(self) -> bool:
        """Whether rollout and metrics are the recorded ones, bit for bit."""
        return self.first is None

    def __repr__(self) -> str:
        start = f"checkpoint {self.start}" if self.start else "the start"
        text = f"{self.run}: the rollout after {self.step} updates, replayed from {start}, "
        if self.first:
            then, now = self.made
            other = f"\n  recorded with {then}; replayed with {now}" if then != now else ""
            return f"{text}differs first in {self.first}{other}"
        updates = f"; {self.metrics} metrics of updates {self.updates[0]} to {self.updates[-1]}"
        return (
            f"{text}is equal bit for bit: {self.answers} answers of {self.tokens:,} tokens"
            f"{updates if self.updates else ''}"
        )


def replay(run: epath.PathLike, step: int, mesh: jax.sharding.Mesh | None = None) -> Replay:
    """Replays a recorded rollout and its updates from the newest checkpoint at or before it, and
    compares them with the record and with metrics.jsonl. Nothing is written.

    The settings, the data and the models are the run's own; the numbers are equal bit for bit on
    the same devices, with the same JAX.

    Args:
      run: a workdir. step: the number of updates before the rollout, as in `rollouts(run).steps`.
      mesh: by default that of the run's settings, over as many devices as recorded the rollout.

    Raises:
      ConfigError: the rollout is not on record; the run's data or its frozen models have changed;
        or the run went back, or changed settings, between the checkpoint and the rollout.
    """
    table, workdir = recorded.rollouts(run).table(step), epath.Path(run)
    changes = json_files.read(workdir / "config.json").get("lineage", [])
    config = _config(workdir, [change for change in changes if change["step"] > step])
    notes = recorded.notes(table)
    mesh = mesh or sharding.make_mesh(config.mesh, jax.devices()[: notes["devices"]])
    with jax.set_mesh(mesh), Progress(f"replay of {workdir.name}", config.steps) as progress:
        ready = setup(config, workdir, mesh)
        start, state, meta = _restore(ready, workdir, step)
        progress.done = start
        if meta:
            check_resume(workdir, meta, ready, config_json(config), start)
        _check_straight(workdir, meta, changes, start, step)
        end = min([config.steps, *(c["step"] for c in changes if c["step"] > step)])
        logged = _logged(workdir)
        step_fn, rates = jit_step(ready), learning_rates(ready)
        source, compared, count = ready.stage.source, list[int](), 0
        first: Difference | None = None
        replayed: pa.Table | None = None
        for number in range(start, end):
            if number > step and source.rollouts(state.source, 1):
                break
            batch, source_state, extra = source.next(state, ready.frozen, state.source, number)
            rollout = extra.pop("record", None)
            if number == step:
                if rollout is None:
                    raise ConfigError(f"{workdir}: no rollout is due after {step} updates")
                arrays = record.fetch(rollout, mesh)
                replayed = record.table(ready.ctx.tokenizer, rollout, arrays, step)
                first = _compare(table, replayed, step)
            seen = step_view(source_state)
            state, values = step_fn(state._replace(source=seen), ready.frozen, batch)
            state = state._replace(source={**source_state, **(state.source or {})})
            progress.update(number + 1)
            if number < step or first or (then := logged.get(number + 1)) is None:
                continue
            extra.pop("warnings", None)
            values.pop("fault")
            now = statistics.numbers(values)
            now |= {name: float(x) for name, x in extra.items() if name not in _TIMES}
            read = source.progress(state.source).items()  # an earlier version logged less of it
            now |= rates(state.opt_state) | {k: x for k, x in read if k in then}
            first = _compare_metrics(then, now, number + 1)
            compared, count = [*compared, number + 1], count + len(now)
    assert replayed is not None
    made = notes["made"], recorded.notes(replayed)["made"]
    tokens = len(table["tokens"].combine_chunks().flatten())
    return Replay(str(run), step, start, len(table), tokens, compared, count, first, made)


def _config(workdir: epath.Path, later: list[dict]) -> RunConfig:
    """The settings of a run, before its changes `later`, with every rollout on record."""
    settings = json_files.read(workdir / "config.json")
    settings = {name: value for name, value in settings.items() if name not in saved.NOT_SETTINGS}
    for change in reversed(later):
        if change["setting"] not in NOT_SETTINGS:
            _set(settings, change["setting"], change["before"])
    config = build(settings)
    return dataclasses.replace(config, evals={}, rl=dataclasses.replace(config.rl, record=1))


def _set(settings: dict, name: str, value: Any) -> None:
    """Sets a dotted name; None, which a missing entry of a mapping has, removes it."""
    group, _, rest = name.partition(".")
    if rest and isinstance(settings.get(group), dict):
        _set(settings[group], rest, value)
    elif value is None:
        settings.pop(name, None)
    else:
        settings[name] = value


def _restore(run: Run, workdir: epath.Path, step: int) -> tuple[int, TrainState, Mapping]:
    """(step, state, meta) of the newest valid checkpoint at or before `step`, else of the start."""
    for start in verification.steps(workdir):
        if not 0 < start <= step:
            continue
        checkpoint = (workdir / "checkpoints" / str(start)).resolve()
        try:
            meta = verification.read_meta(checkpoint)
            state = restore_state(checkpoint, run.abstract, meta)
        except verification.Damaged:
            continue
        return start, with_losses(run, state, meta), meta
    return 0, with_losses(run, init_state(run), {}), {}


def _check_straight(
    workdir: epath.Path, meta: Mapping, changes: list[dict], start: int, step: int
) -> None:
    """Refuses a way from a checkpoint to a rollout on which the run did more than take steps.

    Raises:
      ConfigError: it went back, or its settings were changed.
    """
    began = f"checkpoint {start}" if start else "the start"
    known = meta.get("went_back", [])
    for note in read_records(workdir / "metrics.jsonl"):
        if note.get("kind") != "went_back" or not start <= note["to"] <= step:
            continue
        if not any(all(note[key] == entry[key] for key in entry) for entry in known):
            raise ConfigError(
                f"{workdir} went back from step {note['at']} to {note['to']}, past data that a "
                f"replay from {began} would take; replay a rollout after a later checkpoint"
            )
    for change in changes:
        if start < change["step"] <= step:
            forked = change["setting"] == "fork"
            happened = "began as a fork" if forked else f"changed {change['setting']}"
            raise ConfigError(
                f"{workdir} {happened} at step {change['step']}, between {began} "
                f"and the rollout of step {step}; replay one after a later checkpoint"
            )


def _logged(workdir: epath.Path) -> dict[int, dict]:
    return {r["step"]: r for r in read_metrics(workdir, "train")}


def _compare(a: pa.Table, b: pa.Table, step: int) -> Difference | None:
    """The first difference of two rollouts' tables, by column, row and token."""
    for name in dict.fromkeys([*a.column_names, *b.column_names]):
        if name not in a.column_names or name not in b.column_names:
            missing = ("missing", "there") if name in b.column_names else ("there", "missing")
            return Difference(name, step, 0, None, *missing)
        x, y = a[name].to_pylist(), b[name].to_pylist()
        if len(x) != len(y):
            return Difference(name, step, min(len(x), len(y)), None, len(x), len(y))
        for row, (one, other) in enumerate(zip(x, y)):
            if _same(one, other):
                continue
            if not isinstance(one, list):
                return Difference(name, step, row, None, one, other)
            n = min(len(one), len(other))
            token = next((i for i in range(n) if not _same(one[i], other[i])), n)
            ends = (values[token] if token < len(values) else "ended" for values in (one, other))
            return Difference(name, step, row, token, *ends)
    return None


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, list) and isinstance(y, list):
        return x == y or (len(x) == len(y) and all(map(_same, x, y)))
    return x == y or (isinstance(x, float) and isinstance(y, float) and x != x and y != y)


def _compare_metrics(then: Mapping, now: Mapping[str, float], step: int) -> Difference | None:
    """The first metric of an update that differs; null in the record is a number not finite."""
    for name, value in now.items():
        before = then.get(name)
        if before != value and not (before is None and name in then and not math.isfinite(value)):
            return Difference(name, step, None, None, before, value)
    return None
