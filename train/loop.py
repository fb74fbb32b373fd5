"""The training loop of every stage: it sets a run up, takes its steps, evaluates and saves."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jax
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

import plugins
from data import summary
from model import sharding
from ranges import ConfigError
from tpu.chips import PEAK_FLOPS, compiler_options
from train.assemble import Run, config_json, init_state, save_facts, setup
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
from train.step import TrainState, make_train_step, seen_of


def describe(run: Run, state: TrainState, tokens_per_step: int, flops: float) -> str:
    """One line: the sizes of the models, the cost of a step, the number of steps, the devices."""
    config, sizes = run.ctx.config, []
    for role in run.row.trainable:
        size = f"{role} {_count(state.trainable[role]) / 1e6:.2f}M parameters"
        if role in run.frozen:
            size += f" beside {_count(run.frozen[role]) / 1e6:.2f}M frozen"
        sizes.append(size)
    rollout = ""
    if run.row.rollouts:
        rollout = f" beside {flops_.of_rollout(config, run.ctx.models):.3g} a rollout"
    return (
        f"{config.stage}: {', '.join(sizes)}; {tokens_per_step:,} tokens and "
        f"{flops:.3g} FLOPs a step{rollout}, {config.steps} steps on "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    )


def _count(tree) -> int:
    """The number of values in a tree of arrays."""
    return sum(x.size for x in jax.tree.leaves(tree))


def progress_text(values: Mapping[str, float]) -> str:
    """A step's metrics in a few words, for the progress line."""
    texts = [f"loss {values['loss']:.4f}", f"{values['tokens_per_second']:,.0f} tok/s"]
    if "mfu" in values:
        texts.append(f"MFU {values['mfu']:.1%}")
    if "rollout/score" in values:
        texts += [f"score {values['rollout/score']:.2f}", f"KL {values['rollout/kl']:.2f}"]
    return " · ".join([*texts, f"data {values['data_wait']:.0%}"])


def run(
    config: Mapping | RunConfig, workdir, mesh=None, examples=None, open_data=None, begun=None,
    profile=range(0), allow_data_change=False,
) -> None:  # fmt: skip
    """Trains one stage to its end in `workdir`, from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.
      examples: of `config.data`, if they were read already.
      open_data: (tokenizer) -> Data, instead of the files that the config names.
      begun: start of the time that counts (time.time()); by default now.
      profile: the steps, from 0, to trace (train/runtime/profiling.py).
      allow_data_change: lets a resumed run continue with changed rows.

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
    changed = []
    if start:
        changed = check_resume(workdir, checkpoints.meta(start), run, text, allow_data_change)
        with goodput.time("restore"):
            state = checkpoints.restore(start, run.abstract)
    else:
        state = init_state(run)
    hashes = {name: plugins.fingerprint(name) for name in config.plugins}
    meta = {"frozen": run.origins, "config": text, "content": run.content, "plugins": hashes}
    multihost_utils.sync_global_devices("set up")  # before files that other processes read
    if jax.process_index() == 0:
        save_facts(run, workdir)

    metrics = Metrics(workdir, workdir.name, start, config.steps, jax.process_index() == 0)
    metrics.write_settings(flatten_dict(json.loads(text), sep="."))
    for data in filter(None, (run.ctx.data, run.ctx.pretrain_data)):
        for line in summary.lines(data.skipped, data.redacted, data.unused):
            metrics.say(f"  {line}")
    if start:
        metrics.say(f"resuming {workdir} from step {start}")
    hashes_before = checkpoints.meta(start).get("plugins", {}) if start else {}
    for name, now in hashes.items():
        metrics.say(f"  plugin {name}: {plugins.file_of(name)} ({now})")
        if (before := hashes_before.get(name, now)) != now:
            metrics.say(f"  warning: plugin {name} is another file than before ({before})")
    for name in changed:
        metrics.say(f"  warning: {name} has other rows than before")
    tracer = Profile(workdir, profile)
    try:
        train(run, state, checkpoints, meta, metrics, start, goodput, tracer)
    finally:
        goodput.write()
        metrics.say(f"  {goodput.summary()}")
        metrics.close()
        checkpoints.close()
        tracer.close()


def train(run: Run, state, checkpoints, meta, metrics, start: int, goodput, tracer) -> None:
    """Takes the steps from `start` to the end.

    Args:
      state: a `TrainState`. meta: JSON for every checkpoint. tracer: a `Profile`.

    Raises:
      processes.Preempted: the run was asked to stop, and is saved.
      RewardError: an answer has no reward, and the steps before are saved; or no rollout had
        answers with different scores.
      FloatingPointError: too many updates were left out.
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
        """function(*args); if a reward fails in it, the `step` steps before are saved."""
        try:
            return function(*args)
        except RewardError as e:
            if not step:
                raise
            if step != checkpoints.latest():
                save(wait=True, evaluate=function in run.evaluations)
            raise RewardError(
                f"{e}\nThe run is saved at step {step}; the same command goes on from there"
            ) from e.__cause__

    saved_meta = checkpoints.meta(start) if start else {}
    rollouts = saved_meta.get("rollouts", {"taken": 0, "no_lesson": 0})
    # An evaluation in which a reward failed is repeated.
    if saved_meta.get("evaluate") if start else config.evaluate.at_start:
        evaluate(start)
    drawing = "rollout" if run.row.rollouts else "data_wait"
    throughput = Throughput(PEAK_FLOPS.get(jax.devices()[0].device_kind))
    skipped, source_state = SkippedUpdates(int(state.skipped), start), state.source
    for step in range(start, config.steps):
        goodput.step(step)
        with tracer.step(step, state):
            waited_before = goodput.seconds[drawing]
            with goodput.time(drawing):
                batch, source_state, extra = save_before_error(
                    step, stage.source.next, state, frozen, source_state, step
                )
            throughput.add(waited=goodput.seconds[drawing] - waited_before)
            # The step must not donate the source's arrays: the next minibatch reads them again.
            with goodput.time("compile" if step == start else goodput.part):
                seen = seen_of(source_state)
                state, values = step_fn(state._replace(source=seen), frozen, batch)
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
        if extra or done % config.log_every == 0 or done == config.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
            values |= stage.source.shares(source_state)
            values |= throughput.measure()
            metrics.write(done, "train", values)
            goodput.record(done)
            metrics.progress(done, progress_text(values))
            skipped.record(int(state.skipped), done)
        preempted = processes.preempted()
        if preempted:  # before the evaluation, as there may be no time for more
            save(wait=True)
        with throughput.paused():
            evaluate(done)
        if preempted:
            raise processes.Preempted(
                f"told to leave: saved at step {done}; the same command goes on from there"
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
            "reward, then use a new --workdir"
        )
    if count := int(state.skipped):
        metrics.say(f"  left out {count} of {config.steps} updates: no finite gradient")
