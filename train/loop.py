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

from model import sharding
from tpu.chips import PEAK_FLOPS, compiler_options
from train import outputs, processes, stages
from train.checkpoint import Checkpointer
from train.config import ConfigError, RunConfig, build
from train.goodput import Goodput
from train.metrics import Metrics
from train.profiling import Profile
from train.setup import Run, config_json, init_state, save_facts, setup
from train.step import make_train_step, seen_of

# Updates with a non-finite gradient are left out; so many in a row is a broken run.
MAX_SKIPPED = 20


# What a resumed run may change: it alters neither the weights nor the data.
FREE_TO_CHANGE = ("mesh.", "evaluate.", "checkpoint.", "log_every", "init_from.", "tokenizer.")


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

    before, now = (flatten_dict(json.loads(t), sep=".") for t in (meta["config"], config_text))
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


def describe(config, row, models, state, frozen, tokens_per_step: int) -> str:
    counts = {
        role: sum(x.size for x in jax.tree.leaves(state.trainable[role])) for role in row.trainable
    }
    flops = stages.flops_per_token(models, row.trainable, config.data.length)
    beside = {
        role: f" beside {sum(x.size for x in jax.tree.leaves(frozen[role])) / 1e6:.2f}M frozen"
        for role in counts.keys() & frozen.keys()
    }
    sizes = ", ".join(
        f"{role} {n / 1e6:.2f}M parameters{beside.get(role, '')}" for role, n in counts.items()
    )
    return (
        f"{config.stage}: {sizes}; {tokens_per_step:,} tokens and "
        f"{flops * tokens_per_step:.3g} FLOPs a step, {config.steps} steps on "
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
      profile: the steps, from 0, to trace (train/profiling.py).
      allow_data_change: lets a resumed run go on with other rows than it was begun with.

    Raises:
      ConfigError, DataError, ShardingError: before any training, where it can be known.
    """
    config = config if isinstance(config, RunConfig) else build(config)
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
    for reason, count in run.ctx.data.skipped.items():
        metrics.say(f"  passed over {count} examples: {reason}")
    for kind, count in run.ctx.data.redacted.items():
        metrics.say(f"  redacted: {kind}, {count} times")
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
    """
    ctx, stage, frozen, config = run.ctx, run.stage, run.frozen, run.ctx.config
    step_fn = jax.jit(
        make_train_step(stage, run.tx, config.accumulate),
        donate_argnums=0,
        compiler_options=compiler_options(jax.devices()[0], ctx.models.values()),
    )
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    flops = stages.flops_per_token(ctx.models, state.trainable, config.data.length)

    def evaluate(step):
        with goodput.time("evaluate"):
            values, samples = stage.evaluate(state.trainable, frozen)
        metrics.write(step, "eval", values)
        metrics.write_samples(step, samples)

    def save(wait: bool):
        with goodput.time("checkpoint"):
            metrics.sync()
            checkpoints.save(state, meta)
            if wait:
                checkpoints.wait()

    if start == 0 and config.evaluate.at_start:
        evaluate(0)
    drawing = "rollout" if run.row.schema == "prompt" else "data_wait"
    since, waited, tokens, skipped, last = time.perf_counter(), 0.0, 0, 0, start
    source_state = state.source
    for step in range(start, config.steps):
        goodput.step(step)
        with tracer.step(step, state):
            before = goodput.seconds[drawing]
            with goodput.time(drawing):
                batch, source_state, extra = stage.source.next(state, frozen, source_state, step)
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
            metrics.say(describe(config, run.row, ctx.models, state, frozen, batch["tokens"].size))
        tokens += batch["tokens"].size
        done = step + 1
        if extra or done % config.log_every == 0 or done == config.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
            values |= stage.source.shares(source_state)
            now = time.perf_counter()
            speed = tokens / (now - since)
            values |= {"tokens_per_second": speed, "data_wait": waited / (now - since)}
            text = f"loss {values['loss']:.4f} · {speed:,.0f} tok/s"
            if peak:
                mfu = speed * flops / peak / jax.device_count()
                values["mfu"] = mfu
                text += f" · MFU {mfu:.1%}"
            if "rollout/score" in values:
                text += f" · score {values['rollout/score']:.2f} · KL {values['rollout/kl']:.2f}"
            metrics.write(done, "train", values)
            goodput.record(done)
            metrics.progress(done, f"{text} · data {values['data_wait']:.0%}")
            skipped = skipped + done - last if values["skipped"] else 0
            if skipped >= MAX_SKIPPED:
                raise FloatingPointError(
                    f"{skipped} updates up to step {done} had no finite gradient; lower the "
                    "learning rate, or look at the data with the step's number"
                )
            since, waited, tokens, last = now, 0.0, 0, done
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
