"""The training loop of every stage: sets a run up, takes its steps, evaluates and saves."""

from __future__ import annotations

import contextlib
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
from train import optimizer
from train.assemble import Run, init_state, optimizer_configs, setup
from train.config.run import RunConfig, build
from train.rl.forward import CRITICS
from train.rl.rewards import RewardError
from train.runtime import flops as flops_
from train.runtime import outputs, processes
from train.runtime.checkpoint import Checkpointer
from train.runtime.goodput import Goodput
from train.runtime.health import SkippedUpdates, check_skipped
from train.runtime.metrics import Metrics
from train.runtime.profiling import Profile
from train.runtime.resume import (
    Earlier,
    change_of_steps,
    check_resume,
    config_json,
    earlier_steps,
    save_run_files,
    ways_on,
)
from train.runtime.throughput import Throughput
from train.step import TrainState, make_train_step, step_view
from train.terminal import interrupts, messages
from train.terminal.progress import Progress, phase
from train.terminal.time_left import TimeLeft, multiples


def log_interval(config: RunConfig) -> int:
    """Steps between records of training metrics."""
    return config.log_every or min(10, max(config.steps // 10, 1))


def learning_rates(run: Run) -> Callable[[Any], dict[str, float]]:
    """The function (optimizer state after an update) -> the metrics `learning_rate` and, of a
    critic, `value_learning_rate`."""
    configs = optimizer_configs(run.ctx.config, run.objective.trainable)
    rates_of = optimizer.learning_rates(configs, run.ctx.config.steps)

    def metrics(opt_state) -> dict[str, float]:
        return {
            "value_learning_rate" if role in CRITICS else "learning_rate": rate
            for role, rate in rates_of(opt_state).items()
        }

    return metrics


def run(
    config: Mapping | RunConfig,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh | None = None,
    examples: Examples | None = None,
    open_data: Callable[[Tokenizer], Data] | None = None,
    begun: float | None = None,
    profile: range = range(0),
    allow_data_change: bool = False,
    position: str = "",
) -> None:
    """Trains one stage to its end in `workdir`, resuming from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.
      examples: the examples of `config.data`, if they have been read already.
      open_data: (tokenizer) -> Data, instead of the files that the config names.
      begun: time.time() at which the run's wall time starts; by default now.
      profile: the steps, counted from 0, to trace (train/runtime/profiling.py).
      allow_data_change: whether a resumed run may continue with changed rows.
      position: of the stage in its chain, as "2/5 ", for the terminal.

    Raises:
      ConfigError, DataError, ShardingError: before any training, where possible.
    """
    config = config if isinstance(config, RunConfig) else build(config)
    if profile and profile.start >= config.steps:
        raise ConfigError(
            f"--profile_steps={profile.start}:{profile.stop} is after the run's last step, "
            f"steps={config.steps}"
        )
    workdir, writes = epath.Path(workdir), jax.process_index() == 0
    outputs.make_folder(workdir)
    mesh = mesh or sharding.make_mesh(config.mesh)
    with (
        jax.set_mesh(mesh),
        Goodput(workdir, begun, writes) as goodput,
        Progress(f"{position}{workdir.name}", config.steps, writes=writes) as progress,
    ):
        with phase("setting up"):
            ready = setup(config, workdir, mesh, examples, open_data)
        progress.say(*messages.header(ready, workdir))
        _run(ready, workdir, goodput, progress, profile, allow_data_change)
        if not position:
            for line in messages.closing(ready, workdir):
                progress.command(line)


def _run(
    run: Run, workdir: epath.Path, goodput: Goodput, progress: Progress, profile: range,
    allow_data_change: bool,
) -> None:  # fmt: skip
    config = run.ctx.config
    checkpoints = Checkpointer(workdir, config.checkpoint.keep)
    start, text = checkpoints.latest() or 0, config_json(config)
    saved_meta = checkpoints.meta(start) if start else {}
    changed, earlier = list[str](), list[Earlier]()
    if start:
        changed = check_resume(workdir, saved_meta, run, text, allow_data_change)
        earlier = earlier_steps(workdir, saved_meta, config, start)
        with goodput.time("restore"), phase(f"restoring step {start}"):
            state = checkpoints.restore(start, run.abstract)
        progress.done = start
    else:
        with phase("initializing"):
            state = init_state(run)
    hashes = {name: plugins.fingerprint(name) for name in config.plugins}
    meta = {"frozen": run.origins, "config": text, "content": run.content, "plugins": hashes}
    meta |= {"earlier": earlier} if earlier else {}
    multihost_utils.sync_global_devices("set up")  # before files that other processes read
    if jax.process_index() == 0:
        save_run_files(run, workdir, earlier)

    evaluated = not saved_meta.get("evaluate")
    metrics = Metrics(workdir, start, config.steps, jax.process_index() == 0, evaluated)
    metrics.write_settings(flatten_dict(json.loads(text), sep="."))
    for data in filter(None, (run.ctx.data, run.ctx.pretrain_data)):
        for line in summary.lines(data.skipped, data.redacted, data.unused):
            progress.say(f"  {line}")
    if start == config.steps and evaluated:
        progress.say(f"{workdir} is finished at step {start}; nothing to do")
        for line in ways_on(workdir, run, steps=f"M, M above {start}"):
            progress.say(f"  {line}")
        for line in messages.evaluation(start, metrics.last, metrics.first):
            progress.say(*line)
    elif start:
        progress.say(f"resuming {workdir} from step {start}")
    if earlier != saved_meta.get("earlier", []):
        progress.say(f"  {change_of_steps(config, earlier[-1])}")
    for name, new_hash in hashes.items():
        progress.say(f"  plugin {name}: {plugins.file_of(name)} ({new_hash})")
        if (before := saved_meta.get("plugins", {}).get(name, new_hash)) != new_hash:
            progress.say(f"  warning: plugin {name} has changed since the checkpoint ({before})")
    for name in changed:
        progress.say(f"  warning: {name} has changed rows since the checkpoint")
    tracer = Profile(workdir, profile)
    try:
        train(run, state, checkpoints, saved_meta, meta, metrics, progress, start, goodput, tracer)
    finally:
        goodput.write()
        first, *others = goodput.summary()
        progress.say(f"  {first}", *others)
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
    progress: Progress,
    start: int,
    goodput: Goodput,
    tracer: Profile,
) -> None:
    """Takes the steps from `start` to the end.

    Args:
      saved_meta: JSON values of the checkpoint at `start`; empty at step 0.
      meta: JSON values that every checkpoint of this attempt holds.

    Raises:
      processes.Stopped: the run was asked to stop, and has been saved.
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
        with goodput.time("evaluate"), phase("evaluating"):
            for evaluation in due:
                results, texts = save_before_error(step, evaluation, state.trainable, frozen)
                values |= results
                samples += texts
        metrics.write(step, "eval", values)
        metrics.write_samples(step, samples)
        for line in messages.evaluation(step, values, metrics.first):
            progress.say(*line)

    def save(wait: bool, **notes):
        with goodput.time("checkpoint"), phase("saving"):
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

    def stop(step):
        """Saves and leaves the run; an evaluation that is due happens when it is resumed."""
        save(wait=True, evaluate=any(e.due(step, config.steps) for e in run.evaluations))
        raise processes.Stopped(interrupts.stopped(step))

    rollouts = saved_meta.get("rollouts", {"taken": 0, "no_lesson": 0})
    # The checkpoint's note `evaluate` says that its evaluation failed, or was left out: repeat it.
    if saved_meta.get("evaluate") if start else config.evaluate.at_start:
        evaluate(start)
    tokens, step_flops = messages.tokens_per_step(run), messages.flops_per_step(run)
    peak_flops = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    throughput, shown = Throughput(peak_flops), dict[str, float]()
    rates = learning_rates(run)
    skipped, source_state = SkippedUpdates(int(state.skipped), start), state.source
    time_left = TimeLeft(
        start, config.steps, stage.source.rollouts(source_state, config.steps - start),
        evaluations=multiples([e.every for e in run.evaluations], config.steps),
        checkpoints=multiples([config.checkpoint.every], config.steps),
    )  # fmt: skip
    log_every = log_interval(config)
    goodput.lap()
    with contextlib.ExitStack() as protected:
        for step in range(start, config.steps):
            goodput.step(step)
            rollout = stage.source.rollouts(source_state, 1) > 0
            drawing = "rollout" if rollout else "data_wait"
            with tracer.step(step, state):
                drawn_before = goodput.seconds[drawing]
                with goodput.time(drawing):
                    batch, source_state, extra = save_before_error(
                        step, stage.source.next, state, frozen, source_state, step
                    )
                throughput.drew(goodput.seconds[drawing] - drawn_before, rollout)
                # The step does not see, and so does not donate, the arrays of the source: the next
                # minibatch reads them again.
                visible = step_view(source_state)
                if step == start:
                    with goodput.time("compile"), phase("compiling"):
                        state, values = step_fn(state._replace(source=visible), frozen, batch)
                    protected.enter_context(interrupts.mode(interrupts.Mode.STEP))
                else:
                    state, values = step_fn(state._replace(source=visible), frozen, batch)
            source_state = {**source_state, **(state.source or {})}
            state = state._replace(source=source_state)
            for warning in extra.pop("warnings", ()):
                progress.say(f"  warning at step {step + 1}: {warning}")
            throughput.add(tokens, step_flops)
            if "rollout/draws" in extra:
                rollouts = {
                    "taken": rollouts["taken"] + 1,
                    "no_lesson": rollouts["no_lesson"] + extra["rollout/no_lesson"],
                }
                draws = extra["rollout/draws"]
                throughput.add(flops=flops_.of_rollout(config, ctx.models, draws))
                extra["rollout/share"] = throughput.rollout_share()
            done = step + 1
            if extra or done % log_every == 0 or done == config.steps:
                values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
                values |= rates(state.opt_state) | stage.source.shares(source_state)
                values |= throughput.measure()
                metrics.write(done, "train", values)
                goodput.record(done)
                to_come = stage.source.rollouts(source_state, config.steps - done)
                seconds = time_left.record(done, to_come, goodput.lap())
                shown |= values  # those of a rollout are shown until the next
                progress.update(done, messages.metrics(shown), seconds)
                skipped.record(int(state.skipped), done)
            if processes.asked_to_stop():
                stop(done)
            try:
                with throughput.paused(), interrupts.mode(interrupts.Mode.EVALUATION):
                    evaluate(done)
            except KeyboardInterrupt:
                if not interrupts.asked():
                    raise
                stop(done)
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
        progress.say(f"  skipped {count} of {config.steps} updates: gradient not finite")
