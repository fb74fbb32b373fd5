"""The training loop of every stage: sets a run up, takes its steps, evaluates and saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
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
from tpu.chips import PEAK_FLOPS, compiler_options
from train.assemble import Run, config_json, init_state, save_run_files, setup
from train.config.run import RunConfig, build
from train.rl.rewards import RewardError
from train.runtime import flops as flops_
from train.runtime import outputs, processes
from train.runtime.checkpoint import Checkpointer, abstract_params
from train.runtime.goodput import Goodput
from train.runtime.health import SkippedUpdates, check_skipped
from train.runtime.metrics import Metrics
from train.runtime.profiling import Profile
from train.runtime.resume import check_resume
from train.runtime.throughput import Throughput
from train.step import TrainState, make_train_step, step_view


def describe(run: Run, state: TrainState, tokens_per_step: int, flops: float) -> str:
    """One line: the sizes of the models, the cost of a step, the number of steps, the devices."""
    config, sizes = run.ctx.config, []
    for role in run.objective.trainable:
        size = f"{role} {_count(state.trainable[role]) / 1e6:.2f}M parameters"
        if role in run.frozen:
            size += f" and {_count(run.frozen[role]) / 1e6:.2f}M frozen"
        sizes.append(size)
    rollout = ""
    if run.objective.rollouts:
        rollout = f" and {flops_.of_rollout(config, run.ctx.models):.3g} a rollout"
    return (
        f"{config.stage}: {', '.join(sizes)}; {tokens_per_step:,} tokens and "
        f"{flops:.3g} FLOPs a step{rollout}, {config.steps} steps on "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    )


def _count(tree) -> int:
    """The number of values in a tree of arrays."""
    return sum(x.size for x in jax.tree.leaves(tree))


def progress_text(values: Mapping[str, float]) -> str:
    """A summary of a step's metrics for the progress line."""
    texts = [f"loss {values['loss']:.4f}", f"{values['tokens_per_second']:,.0f} tok/s"]
    if "mfu" in values:
        texts.append(f"MFU {values['mfu']:.1%}")
    if "rollout/score" in values:
        texts += [f"score {values['rollout/score']:.2f}", f"KL {values['rollout/kl']:.2f}"]
    return " · ".join([*texts, f"data {values['data_wait']:.0%}"])


def run(
    config: Mapping | RunConfig,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh | None = None,
    examples: Examples | None = None,
    open_data: Callable[[Tokenizer], Data] | None = None,
    begun: float | None = None,
    profile: range = range(0),
    allow_data_change: bool = False,
) -> None:
    """Trains one stage to its end in `workdir`, resuming from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.
      examples: the examples of `config.data`, if they have been read already.
      open_data: (tokenizer) -> Data, instead of the files that the config names.
      begun: time.time() at which the run's wall time starts; by default now.
      profile: the steps, counted from 0, to trace (train/runtime/profiling.py).
      allow_data_change: whether a resumed run may continue with changed rows.

    Raises:
      ConfigError, DataError, ShardingError: before any training, where possible.
    """
    config = config if isinstance(config, RunConfig) else build(config)
    if profile and profile.start >= config.steps:
        raise ConfigError(
            f"--profile_steps={profile.start}:{profile.stop} is after the run's last step, "
            f"steps={config.steps}"
        )
    workdir = epath.Path(workdir)
    outputs.make_folder(workdir)
    mesh = mesh or sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh), Goodput(workdir, begun, jax.process_index() == 0) as goodput:
        ready = setup(config, workdir, mesh, examples, open_data)
        _run(ready, workdir, goodput, profile, allow_data_change)


def _run(run: Run, workdir, goodput: Goodput, profile: range, allow_data_change: bool) -> None:
    config = run.ctx.config
    checkpoints = Checkpointer(workdir, config.checkpoint.keep)
    start, text = checkpoints.latest() or 0, config_json(config)
    saved_meta = checkpoints.meta(start) if start else {}
    changed = []
    if start:
        changed = check_resume(workdir, saved_meta, run, text, allow_data_change)
        with goodput.time("restore"):
            state = checkpoints.restore(start, run.abstract)
    else:
        state = init_state(run)
    hashes = {name: plugins.fingerprint(name) for name in config.plugins}
    meta = {"frozen": run.origins, "config": text, "content": run.content, "plugins": hashes}
    multihost_utils.sync_global_devices("set up")  # before files that other processes read
    if jax.process_index() == 0:
        save_run_files(run, workdir)

    metrics = Metrics(workdir, workdir.name, start, config.steps, jax.process_index() == 0)
    metrics.write_settings(flatten_dict(json.loads(text), sep="."))
    for data in filter(None, (run.ctx.data, run.ctx.pretrain_data)):
        for line in summary.lines(data.skipped, data.redacted, data.unused):
            metrics.say(f"  {line}")
    if start:
        metrics.say(f"resuming {workdir} from step {start}")
    for name, new_hash in hashes.items():
        metrics.say(f"  plugin {name}: {plugins.file_of(name)} ({new_hash})")
        if (before := saved_meta.get("plugins", {}).get(name, new_hash)) != new_hash:
            metrics.say(f"  warning: plugin {name} has changed since the checkpoint ({before})")
    for name in changed:
        metrics.say(f"  warning: {name} has changed rows since the checkpoint")
    tracer = Profile(workdir, profile)
    try:
        train(run, state, checkpoints, saved_meta, meta, metrics, start, goodput, tracer)
    finally:
        goodput.write()
        metrics.say(f"  {goodput.summary()}")
        metrics.close()
        checkpoints.close()
        tracer.close()


def train(
    run: Run,
    state: TrainState,
    checkpoints: Checkpointer,
    saved_meta: Mapping[str, Any],
    meta: dict[str, Any],
    metrics: Metrics,
    start: int,
    goodput: Goodput,
    tracer: Profile,
) -> None:
    """Takes the steps from `start` to the end.

    Args:
      saved_meta: JSON values of the checkpoint at `start`; empty at step 0.
      meta: JSON values that every checkpoint of this attempt holds.

    Raises:
      processes.Preempted: the run was asked to stop, and has been saved.
      RewardError: an answer has no reward, and the steps before it have been saved; or no rollout
        had answers with different scores.
      FloatingPointError: too many updates were skipped.
    """
    ctx, stage, frozen, config = run.ctx, run.stage, run.frozen, run.ctx.config
    step_fn = jax.jit(
        make_train_step(stage, run.tx, config.accumulate),
        donate_argnums=0,
        compiler_options=compiler_options(jax.devices()[0], ctx.models.values()),
    )

    def evaluate(step):
        due = [e for e in run.evaluations if e.due(step, config.steps)]
        if not due:
            return
        values, samples = {}, []
        with goodput.time("evaluate"):
            for evaluation in due:
                results, texts = save_before_error(step, evaluation, state.trainable, frozen)
                values |= results
                samples += texts
        metrics.write(step, "eval", values)
        metrics.write_samples(step, samples)

    def save(wait: bool, **notes):
        with goodput.time("checkpoint"):
            metrics.sync()
            checkpoints.save(state, meta | notes | {"rollouts": rollouts})
            if wait:
                checkpoints.wait()

    def save_before_error(step, function, *args):
        """function(*args); if a reward fails in it, saves the state after `step` steps first."""
        try:
            return function(*args)
        except RewardError as e:
            if not step:
                raise
            if step != checkpoints.latest():
                save(wait=True, evaluate=function in run.evaluations)
            raise RewardError(
                f"{e}\nThe run is saved at step {step}; run the same command to resume"
            ) from e.__cause__

    rollouts = saved_meta.get("rollouts", {"taken": 0, "no_lesson": 0})
    # The checkpoint's note `evaluate` says that a reward failed in its evaluation: repeat it.
    if saved_meta.get("evaluate") if start else config.evaluate.at_start:
        evaluate(start)
    drawing = "rollout" if run.objective.rollouts else "data_wait"
    throughput = Throughput(PEAK_FLOPS.get(jax.devices()[0].device_kind))
    skipped, source_state = SkippedUpdates(int(state.skipped), start), state.source
    log_every = min(config.log_every, max(config.steps // 10, 1))
    for step in range(start, config.steps):
        goodput.step(step)
        with tracer.step(step, state):
            waited_before = goodput.seconds[drawing]
            with goodput.time(drawing):
                batch, source_state, extra = save_before_error(
                    step, stage.source.next, state, frozen, source_state, step
                )
            throughput.add(waited=goodput.seconds[drawing] - waited_before)
            # The step does not see, and so does not donate, the arrays of the source: the next
            # minibatch reads them again.
            with goodput.time("compile" if step == start else goodput.part):
                visible = step_view(source_state)
                state, values = step_fn(state._replace(source=visible), frozen, batch)
        source_state = {**source_state, **(state.source or {})}
        state = state._replace(source=source_state)
        for warning in extra.pop("warnings", ()):
            metrics.say(f"  warning at step {step + 1}: {warning}")
        if step == start:
            tokens = batch["tokens"].size
            weights = {r: abstract_params(r, ctx.models[r], ctx.mesh) for r in state.trainable}
            step_flops = flops_.of_step(config, ctx.models, weights, run.parts, tokens)
            metrics.say(describe(run, state, tokens, step_flops))
        throughput.add(tokens, step_flops)
        if "rollout/draws" in extra:
            rollouts = {
                "taken": rollouts["taken"] + 1,
                "no_lesson": rollouts["no_lesson"] + extra["rollout/no_lesson"],
            }
            draws = extra["rollout/draws"]
            throughput.add(flops=flops_.of_rollout(config, ctx.models, draws))
        done = step + 1
        if extra or done % log_every == 0 or done == config.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
            values |= stage.source.shares(source_state)
            values |= throughput.measure()
            metrics.write(done, "train", values)
            goodput.record(done)
            metrics.progress(done, progress_text(values))
            skipped.record(int(state.skipped), done)
        preempted = processes.preempted()
        if preempted:  # before the evaluation, which there may be no time for
            save(wait=True)
        with throughput.paused():
            evaluate(done)
        if preempted:
            raise processes.Preempted(
                f"preempted: saved at step {done}; run the same command to resume"
            )
        if done == config.steps or (
            config.checkpoint.every and done % config.checkpoint.every == 0
        ):
            save(wait=done == config.steps)
    check_skipped(int(state.skipped), config.steps)
    if 0 < rollouts["taken"] == rollouts["no_lesson"]:
        raise RewardError(
            f"in each of {rollouts['taken']} rollouts all answers that are compared had the same "
            "score, so there was nothing to learn. Look at the answers in samples.jsonl and at the "
            "reward, then start again in a new --workdir"
        )
    if count := int(state.skipped):
        metrics.say(f"  skipped {count} of {config.steps} updates: gradient not finite")
