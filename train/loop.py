"""The loop: sets a run up, takes its steps, saves, evaluates. Every stage runs in it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping

import jax
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from data import summary
from model import sharding
from ranges import ConfigError
from tpu.chips import PEAK_FLOPS, compiler_options
from train.assemble import Run, config_json, init_state, save_facts, setup
from train.config.model import read_saved
from train.config.names import RENAMED
from train.config.run import RunConfig, build
from train.rl.rewards import RewardError
from train.runtime import flops as flops_
from train.runtime import outputs, processes
from train.runtime.checkpoint import Checkpointer, abstract_params
from train.runtime.goodput import Goodput
from train.runtime.metrics import Metrics
from train.runtime.profiling import Profile
from train.step import make_train_step, seen_of

# Updates with a non-finite gradient are left out; so many in a row is a broken run, and so is one
# of whose updates a larger share was.
MAX_SKIPPED, MAX_SKIPPED_SHARE = 20, 0.1


# What a resumed run may change: it alters neither the weights nor the data.
FREE_TO_CHANGE = ("mesh.", "evaluate.", "checkpoint.", "log_every", "init_from.", "tokenizer.",
                  "rewards.on_error", "rewards.max_errors")  # fmt: skip


# Where data is: of data, the rows decide.
PLACES = re.compile(
    r"(data|pretrain_data)\.((mixture|decontaminate)\.[^.]+\.source|source|heldout_source|tfds_dir)"
)


def check_resume(workdir, meta, run: Run, config_text: str, allow_data_change=False) -> list[str]:
    """A resumed run must be the run that was saved; returns which data changed, as it may.

    Raises:
      ConfigError: its frozen models are others (they would change every KL and score), or its
        settings, its tokenizer or, unless `allow_data_change`, its data.
    """
    origins = run.origins
    for role, facts in meta["frozen"].items():
        if origins.get(role, {}).get("fingerprint") != facts["fingerprint"]:
            raise ConfigError(
                f"{workdir} was trained with the {role} of {facts['from']} "
                f"({facts['fingerprint']}), and init_from now gives another. Restore that one, "
                "or use a new --workdir"
            )
    content = meta.get("content", {})  # a run of before there was such is known by its paths

    def free(key: str) -> bool:
        place = PLACES.fullmatch(key)
        return key.startswith(FREE_TO_CHANGE) or bool(place and content)

    texts = config_json(RunConfig()), meta["config"], config_text
    defaults, before, now = (flatten_dict(json.loads(text), sep=".") for text in texts)
    before = {RENAMED.get(key, key): value for key, value in read_saved(before).items()}
    # A setting that there was not yet had the effect of its default.
    before = {key: defaults[key] for key in defaults.keys() & now.keys()} | before
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not free(key)
    ]
    if changed:
        raise ConfigError(
            f"{workdir} was begun with another config ({'; '.join(changed)}); a resumed run "
            "would be neither. Use a new --workdir, or the old settings"
        )
    other = [name for name, found in run.content.items() if content.get(name, found) != found]
    if "tokenizer" in other:
        raise ConfigError(
            f"{workdir} was begun with another tokenizer ({content['tokenizer']}) than there is "
            f"now ({run.content['tokenizer']}): ids would mean other text. Put the files in "
            f"{workdir}/tokenizer back, or use a new --workdir"
        )
    if other and not allow_data_change:
        raise ConfigError(
            f"the rows of {' and '.join(other)} are others than {workdir} was begun with: the "
            "files have changed, others are named, or rows are made of them otherwise. Put the old "
            "ones back, use a new --workdir, or go on with the new rows: --allow_data_change"
        )
    return other


def describe(config, row, models, state, frozen, tokens_per_step: int, flops: float) -> str:
    counts = {
        role: sum(x.size for x in jax.tree.leaves(state.trainable[role])) for role in row.trainable
    }
    beside = {
        role: f" beside {sum(x.size for x in jax.tree.leaves(frozen[role])) / 1e6:.2f}M frozen"
        for role in counts.keys() & frozen.keys()
    }
    sizes = ", ".join(
        f"{role} {n / 1e6:.2f}M parameters{beside.get(role, '')}" for role, n in counts.items()
    )
    rollout = ""
    if row.schema == "prompt":
        rollout = f" beside {flops_.of_rollout(config, models):.3g} a rollout"
    return (
        f"{config.stage}: {sizes}; {tokens_per_step:,} tokens and "
        f"{flops:.3g} FLOPs a step{rollout}, {config.steps} steps on "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    )


def run(
    config: Mapping, workdir, mesh=None, examples=None, open_data=None, begun=None,
    profile=range(0), allow_data_change=False,
) -> None:  # fmt: skip
    """Trains one stage to its end in `workdir`, from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.
      examples: of `config.data`, where they were read already.
      open_data: (tokenizer) -> Data, in place of the files that the config names.
      begun: since when its time counts (time.time()); by default now.
      profile: the steps, from 0, to trace (train/runtime/profiling.py).
      allow_data_change: lets a resumed run go on with other rows than it was begun with.

    Raises:
      ConfigError, DataError, ShardingError: before any training, where it can be known.
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
    meta = {"frozen": run.origins, "config": text, "content": run.content}
    multihost_utils.sync_global_devices("set up")  # before anything is written that another reads
    if jax.process_index() == 0:
        save_facts(run, workdir)

    metrics = Metrics(workdir, workdir.name, start, config.steps, jax.process_index() == 0)
    metrics.write_settings(flatten_dict(json.loads(text), sep="."))
    for data in filter(None, (run.ctx.data, run.ctx.pretrain_data)):
        for line in summary.lines(data.skipped, data.redacted, data.unused):
            metrics.say(f"  {line}")
    if start:
        metrics.say(f"resuming {workdir} from step {start}")
    for name in changed:
        metrics.say(f"  warning: {name} has other rows than before (--allow_data_change)")
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
    """Steps `start` to the end.

    Raises:
      processes.Preempted: it was told to leave, and has saved.
      RewardError: an answer has no reward, and what there was before is saved; or no rollout had
        answers of different scores.
      FloatingPointError: too many updates were left out.
    """
    ctx, stage, frozen, config = run.ctx, run.stage, run.frozen, run.ctx.config
    step_fn = jax.jit(
        make_train_step(stage, run.tx, config.accumulate),
        donate_argnums=0,
        compiler_options=compiler_options(jax.devices()[0], ctx.models.values()),
    )
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)

    def evaluate(step):
        with goodput.time("evaluate"):
            values, samples = rewarded(step, stage.evaluate, state.trainable, frozen)
        metrics.write(step, "eval", values)
        metrics.write_samples(step, samples)

    def save(wait: bool, **notes):
        with goodput.time("checkpoint"):
            metrics.sync()
            checkpoints.save(state, meta | notes | {"rollouts": rollouts})
            if wait:
                checkpoints.wait()

    def rewarded(step, function, *args):
        """function(*args); where a reward fails there, the `step` steps before it are saved."""
        try:
            return function(*args)
        except RewardError as e:
            if not step:
                raise
            if step != checkpoints.latest():
                save(wait=True, evaluate=function is stage.evaluate)
            raise RewardError(
                f"{e}\nThe run is saved at step {step}; the same command goes on from there"
            ) from e.__cause__

    before_this = checkpoints.meta(start) if start else {}
    rollouts = before_this.get("rollouts", {"taken": 0, "no_lesson": 0})
    # One that a reward failed in is still to come.
    if before_this.get("evaluate") if start else config.evaluate.at_start:
        evaluate(start)
    drawing = "rollout" if run.row.schema == "prompt" else "data_wait"
    since, waited, tokens, work, last = time.perf_counter(), 0.0, 0, 0.0, start
    skipped, in_a_row = int(state.skipped), 0
    source_state = state.source
    for step in range(start, config.steps):
        goodput.step(step)
        with tracer.step(step, state):
            before = goodput.seconds[drawing]
            with goodput.time(drawing):
                batch, source_state, extra = rewarded(
                    step, stage.source.next, state, frozen, source_state, step
                )
            waited += goodput.seconds[drawing] - before
            # The source's arrays are not the step's to donate: the next minibatch reads them again.
            with goodput.time("compile" if step == start else goodput.part):
                seen = seen_of(source_state)
                state, values = step_fn(state._replace(source=seen), frozen, batch)
        source_state = {**source_state, **(state.source or {})}
        state = state._replace(source=source_state)
        for warning in extra.pop("warnings", ()):
            metrics.say(f"  warning at step {step + 1}: {warning}")
        if step == start:
            size = batch["tokens"].size
            weights = {r: abstract_params(r, ctx.models[r], ctx.mesh) for r in state.trainable}
            step_flops = flops_.of_step(config, ctx.models, weights, run.parts, size)
            metrics.say(describe(config, run.row, ctx.models, state, frozen, size, step_flops))
        tokens, work = tokens + size, work + step_flops
        if "rollout/draws" in extra:
            rollouts = {
                "taken": rollouts["taken"] + 1,
                "no_lesson": rollouts["no_lesson"] + extra["rollout/no_lesson"],
            }
            work += flops_.of_rollout(config, ctx.models, extra["rollout/draws"])
        done = step + 1
        if extra or done % config.log_every == 0 or done == config.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
            values |= stage.source.shares(source_state)
            now = time.perf_counter()
            speed = tokens / (now - since)
            values |= {"tokens_per_second": speed, "data_wait": waited / (now - since)}
            text = f"loss {values['loss']:.4f} · {speed:,.0f} tok/s"
            if peak:
                mfu = work / (now - since) / peak / jax.device_count()
                values["mfu"] = mfu
                text += f" · MFU {mfu:.1%}"
            if "rollout/score" in values:
                text += f" · score {values['rollout/score']:.2f} · KL {values['rollout/kl']:.2f}"
            metrics.write(done, "train", values)
            goodput.record(done)
            metrics.progress(done, f"{text} · data {values['data_wait']:.0%}")
            earlier, skipped = skipped, int(state.skipped)
            in_a_row = in_a_row + done - last if skipped - earlier == done - last else 0
            if in_a_row >= MAX_SKIPPED:
                raise FloatingPointError(
                    f"{in_a_row} updates up to step {done} had no finite gradient; lower the "
                    "learning rate, or look at the data with the step's number"
                )
            since, waited, tokens, work, last = now, 0.0, 0, 0.0, done
        told_to_leave = processes.preempted()
        if told_to_leave:  # there may be no time for more
            save(wait=True)
        if done == config.steps or (config.evaluate.every and done % config.evaluate.every == 0):
            paused = time.perf_counter()
            evaluate(done)
            since += time.perf_counter() - paused
        if told_to_leave:
            raise processes.Preempted(
                f"told to leave: saved at step {done}; the same command goes on from there"
            )
        if done == config.steps or (
            config.checkpoint.every and done % config.checkpoint.every == 0
        ):
            save(wait=done == config.steps)
    skipped = int(state.skipped)
    if skipped > MAX_SKIPPED_SHARE * config.steps:
        raise FloatingPointError(
            f"{skipped} of {config.steps} updates had no finite gradient and were left out, which "
            "is no run to go on from; lower the learning rate, or look at the data, and use a new "
            "--workdir"
        )
    if 0 < rollouts["taken"] == rollouts["no_lesson"]:
        raise RewardError(
            f"in each of {rollouts['taken']} rollouts all answers that are compared had the same "
            "score, so there was nothing to learn. Look at the answers in samples.jsonl and at the "
            "reward, then use a new --workdir"
        )
    if skipped:
        metrics.say(f"  left out {skipped} of {config.steps} updates: no finite gradient")
