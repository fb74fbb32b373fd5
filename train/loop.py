"""The training loop of every stage: sets a run up, takes its steps, evaluates and saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

import plugins
from data import summary
from data.pipeline import Data
from data.splits import Examples
from data.text.base import Tokenizer
from model import sharding
from ranges import ConfigError
from train.assembly import budget
from train.assembly.programs import jit_step, jit_step_ahead
from train.assembly.run import Run, init_state, setup, with_config
from train.attempt import Attempt, Hooks
from train.checkpoints import verification
from train.checkpoints.checkpointer import Checkpointer
from train.checkpoints.networks import check_memory
from train.config.run import RunConfig, build
from train.evals.outcomes import Outcomes
from train.guards import lock
from train.guards.going_back import with_losses
from train.guards.settings import Difference
from train.guards.watchdog import Watchdog
from train.report import provenance
from train.rl.record import Recorder
from train.runtime import outputs
from train.runtime.goodput import Goodput
from train.runtime.metrics import Metrics
from train.runtime.profiling import Profile
from train.runtime.resume import (
    changed_lines,
    check_resume,
    config_json,
    lineage,
    save_run_files,
    ways_on,
)
from train.runtime.trackers import registry as trackers
from train.terminal import messages
from train.terminal.progress import Progress, phase
from train.workflows import fork as forks
from train.workflows.fork import Fork


def run(
    config: Mapping | RunConfig,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh | None = None,
    examples: Examples | None = None,
    open_data: Callable[[Tokenizer], Data] | None = None,
    begun: float | None = None,
    profile: range = range(0),
    allow_change: Collection[str] = (),
    position: str = "",
    fork: str = "",
    hooks: Hooks | None = None,
) -> None:
    """Trains one stage to its end in `workdir`, resuming from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.
      examples: the examples of `config.data`, if they have been read already.
      open_data: (tokenizer) -> Data, instead of the files that the config names.
      begun: time.time() at which the run's wall time starts; by default now.
      profile: the steps, counted from 0, to trace (train/runtime/profiling.py).
      allow_change: settings, and `data` for rows, that a resumed run may change
        (train/guards/settings.py).
      position: of the stage in its chain, as "2/5 ", for the terminal.
      fork: RUN@STEP, where a new run continues (train/workflows/fork.py).
      hooks: what the caller adds (train/attempt.py).

    Raises:
      ConfigError, DataError, ShardingError: before any training, where possible.
    """
    config = config if isinstance(config, RunConfig) else build(config)
    if not config.budget:
        _check_profile(profile, config.steps)
    workdir, writes = epath.Path(workdir), jax.process_index() == 0
    if writes:
        trackers.check(config.trackers, config.tracking)
    origin = forks.parse(fork, workdir) if fork else None
    outputs.make_folder(workdir)
    if origin:
        config = forks.with_tokenizer(config, origin, workdir)
        if not verification.steps(workdir):
            forks.check_settings(origin, config)
    mesh = mesh or sharding.make_mesh(config.mesh)
    with (
        lock.owned(workdir),
        jax.set_mesh(mesh),
        Goodput(workdir, begun, writes) as goodput,
        Watchdog(config.watchdog, goodput.activity),
        Progress(f"{position}{workdir.name}", config.steps, writes=writes) as progress,
    ):
        with phase("setting up"):
            ready = setup(config, workdir, mesh, examples, open_data)
        if budget.to_be_timed(config, workdir):
            with phase("timing steps"):
                state = with_losses(ready, init_state(ready), {})
                ready = with_config(ready, budget.measured(ready, state, jit_step(ready)))
        progress.total = ready.ctx.config.steps
        if config.budget:
            _check_profile(profile, progress.total)
            progress.say(f"  {budget.line(ready)}")
        progress.say(*messages.header(ready, workdir))
        for parts in messages.ramp(ready):
            progress.say(*parts)
        extras = hooks or Hooks()
        _run(ready, workdir, goodput, progress, profile, allow_change, origin, extras)
        if not position:
            for line in messages.closing(ready, workdir):
                progress.command(line)


def _check_profile(profile: range, steps: int) -> None:
    if profile and profile.start >= steps:
        raise ConfigError(
            f"--profile_steps={profile.start}:{profile.stop} is after the run's last step, "
            f"steps={steps}"
        )


def _run(
    run: Run, workdir: epath.Path, goodput: Goodput, progress: Progress, profile: range,
    allow_change: Collection[str], fork: Fork | None, hooks: Hooks,
) -> None:  # fmt: skip
    config = run.ctx.config
    check_memory(run.abstract, "this run")
    keeping, text = config.checkpoint, config_json(config)
    checkpoints = Checkpointer(
        workdir, keeping.keep, keeping.keep_every, keeping.best_mode, say=progress.say
    )
    changed = list[Difference]()

    def check(step: int, meta: dict[str, Any]) -> None:
        nonlocal changed
        if fork:
            forks.check_resumed(fork, meta, workdir)
        changed = check_resume(workdir, meta, run, text, step, allow_change)

    with goodput.time("restore"):
        resumed, forked = checkpoints.restore_newest(run.abstract, check), False
        if fork and not resumed:
            resumed, changed = forks.restore(fork, run, text, workdir)
            forked = True
    if resumed:
        start, state, saved_meta = resumed
        progress.done = start
    else:
        start, state, saved_meta = 0, run.abstract, dict[str, Any]()
    if start < config.steps:
        step_fn = jit_step_ahead(run, hooks.jit, state.source)
    else:
        step_fn = jit_step(run, hooks.jit)
    if not resumed:
        with phase("initializing"):
            state = init_state(run)
    hashes = {name: plugins.fingerprint(name) for name in config.plugins}
    meta = {"frozen": run.origins, "config": text, "content": run.content, "plugins": hashes}
    meta |= {"lineage": changes} if (changes := lineage(saved_meta, changed, start)) else {}
    multihost_utils.sync_global_devices("set up")  # before files that other processes read
    if jax.process_index() == 0:
        save_run_files(run, workdir, changes)
        provenance.add_attempt(workdir, start, run.content, hashes)

    metrics = Metrics(
        workdir, start, config.steps, jax.process_index() == 0, config.trackers, config.tracking
    )
    metrics.evaluated = bool(multihost_utils.broadcast_one_to_all(np.array(metrics.evaluated)))
    outcomes = Outcomes(run.evaluations, config.steps, metrics.evaluations)
    metrics.write_settings(flatten_dict(json.loads(text), sep="."))
    for data in filter(None, (run.ctx.data, run.ctx.pretrain_data)):
        for line in summary.lines(data.skipped, data.redacted, data.unused, data.changes):
            progress.say(f"  {line}")
    if start == config.steps and metrics.evaluated:
        progress.say(f"{workdir} is finished at step {start}; nothing to do")
        for line in ways_on(workdir, run, steps=f"M, M above {start}"):
            progress.say(f"  {line}")
        for line in messages.evaluation(start, metrics.last, metrics.first):
            progress.say(*line)
    elif forked and start == config.steps:
        progress.say(
            f"forking {fork}, its last step: no step is left to train; for more, a new "
            f"--workdir and --config.steps=M, M above {start}"
        )
    elif start:
        progress.say(f"forking {fork}" if forked else f"resuming {workdir} from step {start}")
    for line in changed_lines(config, changed, start):
        progress.say(f"  {line}")
    for name, new_hash in hashes.items():
        progress.say(f"  plugin {name}: {plugins.file_of(name)} ({new_hash})")
        if (before := saved_meta.get("plugins", {}).get(name, new_hash)) != new_hash:
            progress.say(f"  warning: plugin {name} has changed since the checkpoint ({before})")
    tracer = Profile(workdir, profile)
    try:
        Attempt(
            run=run, step_fn=step_fn, state=state, start=start, saved_meta=saved_meta, meta=meta,
            checkpoints=checkpoints, metrics=metrics, progress=progress, goodput=goodput,
            tracer=tracer, outcomes=outcomes, hooks=hooks,
            recorder=Recorder(workdir, run.ctx.tokenizer, run.ctx.mesh),
        ).train()  # fmt: skip
    finally:
        goodput.write()
        first, *others = goodput.summary()
        progress.say(f"  {first}", *others)
        for line in outcomes.summary():
            progress.say(line)
        metrics.close()
        checkpoints.close()
        tracer.close()
