"""The loop: sets a run up, takes its steps, saves, evaluates. Every stage runs in it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from data import pipeline
from data import tokenizer as tokenizers
from model import sharding
from tpu.chips import PEAK_FLOPS
from train import checkpoint, optimizer, stages
from train.checkpoint import Checkpointer
from train.config import ConfigError, RunConfig, build
from train.metrics import Metrics
from train.step import TrainState, make_train_step

# Updates with a non-finite gradient are left out; so many in a row is a broken run.
MAX_SKIPPED = 20


def make_tokenizer(config: RunConfig, workdir, examples) -> tokenizers.Tokenizer:
    """The run's tokenizer: its own if it has one, the one it starts from, or a new one.

    Raises:
      ConfigError: runs it starts from, or `tokenizer.path`, have different tokenizers.
    """
    if (epath.Path(workdir) / "tokenizer").exists():
        tokenizer = tokenizers.load(workdir)
    else:
        tokenizer = None
    origins = {f"init_from.{role}": path for role, path in config.init_from.items()}
    if config.tokenizer.path:
        origins["tokenizer.path"] = config.tokenizer.path
    for name, path in origins.items():
        other = tokenizers.load(path)
        if tokenizer is not None and other.fingerprint != tokenizer.fingerprint:
            raise ConfigError(
                f"{name}={path} has another tokenizer ({other.fingerprint}) than this run "
                f"({tokenizer.fingerprint}); ids would mean other text. Start from runs that "
                "share one, or leave tokenizer.path empty"
            )
        tokenizer = tokenizer or other
    if tokenizer is None:
        settings = config.tokenizer
        texts = [_text_of(example) for example in examples]
        tokenizer = tokenizers.train(settings.kind, texts, settings.vocab_size)
    return tokenizer


def _text_of(example) -> str:
    if "text" in example:
        return example["text"]
    parts = [m["content"] for m in example["messages"]] + list(example.get("responses", ()))
    return "\n".join(parts)


def resolve_models(config: RunConfig, row: stages.StageRow, vocab_size: int):
    """{role: architecture}: of the runs that a stage starts from, or of `config.model`."""
    model, models = config.model, {}
    execution = model.execution()
    for role in row.trainable:
        origin = next((o for o in row.origins[role] if o in config.init_from), None)
        if origin is None:
            models[role] = model.build(vocab_size)
            continue
        inherited = checkpoint.model_config(config.init_from[origin], origin, **execution)
        if model.size and model.build(vocab_size) != inherited:
            raise ConfigError(
                f"model.size={model.size!r} is not the architecture of "
                f"init_from.{origin}={config.init_from[origin]}; leave model.size empty to take it"
            )
        models[role] = inherited
    for role in (*row.frozen, *row.optional):
        path = config.init_from.get(role)
        if role == "reference":
            path = path or config.init_from["policy"]
        if path:
            models[role] = checkpoint.model_config(path, role, **execution)
    return models


def load_frozen(config: RunConfig, row: stages.StageRow, models, mesh):
    """Frozen weights by role, and what a checkpoint keeps of them: where from, and fingerprints."""
    frozen, origins = {}, {}
    for role in (*row.frozen, *row.optional):
        if role in models:
            path = config.init_from.get(role) or config.init_from["policy"]
            abstract = checkpoint.abstract_params(role, models[role], mesh)
            frozen[role] = checkpoint.load_params(path, role, abstract)
            origins[role] = {"from": path, "fingerprint": checkpoint.fingerprint(frozen[role])}
    return frozen, origins


def init_trainable(config: RunConfig, row: stages.StageRow, models, mesh):
    """Fresh parameters placed on the mesh, then the weights that `init_from` names."""
    trainable = {}
    for number, role in enumerate(row.trainable):
        abstract = checkpoint.abstract_params(role, models[role], mesh)
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        key = jax.random.fold_in(jax.random.key(config.seed), number)

        def init(key, role=role):
            return nn.unbox(checkpoint.init_params(role, models[role], key))

        params = jax.jit(init, out_shardings=shardings)(key)
        origin = next((o for o in row.origins[role] if o in config.init_from), None)
        if origin:
            source = checkpoint.abstract_params(origin, models[role], mesh)
            weights = checkpoint.load_params(config.init_from[origin], origin, source)
            if origin == role:
                params = weights
            else:  # another head: the backbone alone
                weights = weights.get("backbone", weights)
                params["backbone"] = {k: weights[k] for k in params["backbone"]}
        trainable[role] = params
    return trainable


def init_state(config, row, models, mesh, source) -> tuple[TrainState, object]:
    """The state at step 0, every array in its place, and the optimizer."""
    trainable = init_trainable(config, row, models, mesh)
    configs = {r: config.value_optimizer if r == "value" else config.optimizer for r in trainable}
    tx = optimizer.make_optimizer(configs, config.steps)
    shardings = jax.tree.map(lambda x: x.sharding, trainable)
    everywhere = sharding.replicated(mesh)
    placed = optimizer.opt_state_shardings(
        jax.eval_shape(tx.init, trainable), trainable, shardings, everywhere
    )
    opt_state = jax.jit(tx.init, out_shardings=placed)(trainable)
    step = jax.device_put(jnp.int32(0), everywhere)
    return TrainState(step, trainable, opt_state, source.init()), tx


def check_resume(workdir, meta, origins, config_text: str) -> None:
    """A resumed run must be the run that was saved.

    Raises:
      ConfigError: its frozen models are others (they would change every KL and score).
    """
    for role, facts in meta["frozen"].items():
        if origins.get(role, {}).get("fingerprint") != facts["fingerprint"]:
            raise ConfigError(
                f"{workdir} was trained with the {role} of {facts['from']} "
                f"({facts['fingerprint']}), and init_from now gives another. Restore that one, "
                "or use a new --workdir"
            )
    before, now = json.loads(meta["config"]), json.loads(config_text)
    for key in ("stage", "seed", "steps", "model", "data", "optimizer", "ppo", "accumulate"):
        if before[key] != now[key]:
            changed = [
                f"{key}.{k}: {before[key].get(k)!r} -> {v!r}"
                for k, v in now[key].items() if before[key].get(k) != v
            ] if isinstance(now[key], dict) else [f"{key}: {before[key]!r} -> {now[key]!r}"]  # fmt: skip
            raise ConfigError(
                f"{workdir} was begun with another config ({'; '.join(changed)}); a resumed run "
                "would be neither. Use a new --workdir, or the old settings"
            )


def describe(config, row, models, state, tokens_per_step: int) -> str:
    counts = {
        role: sum(x.size for x in jax.tree.leaves(state.trainable[role])) for role in row.trainable
    }
    flops = sum(models[r].flops_per_token(config.data.length) for r in row.trainable)
    sizes = ", ".join(f"{role} {n / 1e6:.2f}M parameters" for role, n in counts.items())
    return (
        f"{config.stage}: {sizes}; {tokens_per_step:,} tokens and "
        f"{flops * tokens_per_step:.3g} FLOPs a step, {config.steps} steps on "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    )


def tokens_in_step(config: RunConfig, batch) -> int:
    del config
    return batch["tokens"].size


def run(config: Mapping, workdir, mesh=None) -> None:
    """Trains one stage to its end in `workdir`, from its newest checkpoint if it has one.

    Args:
      config: a recipe (configs/), or a RunConfig. mesh: by default over all devices.

    Raises:
      ConfigError, DataError, ShardingError: before any training, where it can be known.
    """
    config = config if isinstance(config, RunConfig) else build(config)
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = mesh or sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        _run(config, workdir, mesh)


def _open(config: RunConfig, row, workdir, mesh) -> stages.Context:
    """Data, tokenizer and architectures: everything that bad input can stop."""
    examples = pipeline.read_examples(config.data, row.schema)
    tokenizer = make_tokenizer(config, workdir, examples.train)
    models = resolve_models(config, row, tokenizer.vocab_size)
    longest = config.data.length
    if row.schema == "prompt":
        longest = config.ppo.prompt_length + config.ppo.response_length
    for role, model in models.items():
        if longest > model.max_length:
            raise ConfigError(
                f"rows of {longest} tokens are longer than the {role}'s context, "
                f"model.max_length={model.max_length}"
            )
    data = pipeline.open_data(
        config.data, row.schema, tokenizer, examples, config.ppo.prompt_length
    )
    mix = None
    if config.stage == "ppo" and config.ppo.pretrain_coef:
        mix = pipeline.open_data(config.pretrain_data, "text", tokenizer).train
    if jax.process_index() == 0:
        tokenizer.save(workdir / "tokenizer")
        checkpoint.save_models(workdir, {r: models[r] for r in row.trainable})
        (workdir / "config.json").write_text(config_json(config) + "\n")
    return stages.Context(config, models, tokenizer, data, mesh, mix)


def config_json(config: RunConfig) -> str:
    import dataclasses

    return json.dumps(dataclasses.asdict(config), indent=2)


def _run(config: RunConfig, workdir, mesh) -> None:
    row = stages.check(config, mesh)
    ctx = _open(config, row, workdir, mesh)
    stage = row.build(ctx)
    frozen, origins = load_frozen(config, row, ctx.models, mesh)
    state, tx = init_state(config, row, ctx.models, mesh, stage.source)

    checkpoints = Checkpointer(workdir, config.checkpoint.keep)
    start, text = 0, config_json(config)
    if checkpoints.latest() is not None:
        start = checkpoints.latest()
        state, meta = checkpoints.restore(start, checkpoint.to_abstract(state))
        check_resume(workdir, meta, origins, text)
    meta = {"frozen": origins, "config": text}

    metrics = Metrics(workdir, workdir.name, start, config.steps, jax.process_index() == 0)
    for reason, count in ctx.data.skipped.items():
        metrics.say(f"  passed over {count} examples: {reason}")
    if start:
        metrics.say(f"resuming {workdir} from step {start}")
    try:
        train(config, stage, tx, ctx, state, frozen, checkpoints, meta, metrics, start)
    finally:
        metrics.close()
        checkpoints.close()


def train(config, stage, tx, ctx, state, frozen, checkpoints, meta, metrics, start) -> None:
    """Steps `start` to the end."""
    step_fn = jax.jit(make_train_step(stage, tx, config.accumulate), donate_argnums=0)
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    flops = sum(ctx.models[r].flops_per_token(config.data.length) for r in state.trainable)

    def evaluate(step):
        values, samples = stage.evaluate(state.trainable, frozen)
        metrics.write(step, "eval", values)
        metrics.write_samples(step, samples)

    if start == 0 and config.evaluate.at_start:
        evaluate(0)
    since, waited, tokens, skipped, last = time.perf_counter(), 0.0, 0, 0, start
    source_state = state.source
    for step in range(start, config.steps):
        before = time.perf_counter()
        batch, source_state, extra = stage.source.next(state, frozen, source_state, step)
        waited += time.perf_counter() - before
        if step == start:
            size = tokens_in_step(config, batch)
            metrics.say(describe(config, stages.STAGES[config.stage], ctx.models, state, size))
        # The source's arrays are not the step's to donate: the next minibatch reads them again.
        state, values = step_fn(state._replace(source=()), frozen, batch)
        state = state._replace(source=source_state)
        tokens += batch["tokens"].size
        done = step + 1
        if extra or done % config.log_every == 0 or done == config.steps:
            values = {k: float(v) for k, v in jax.device_get(values).items()} | extra
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
            metrics.progress(done, f"{text} · data {values['data_wait']:.0%}")
            skipped = skipped + done - last if values["skipped"] else 0
            if skipped >= MAX_SKIPPED:
                raise FloatingPointError(
                    f"{skipped} updates up to step {done} had no finite gradient or were refused; "
                    "lower the learning rate, or look at the data with the step's number"
                )
            since, waited, tokens, last = now, 0.0, 0, done
        if done == config.steps or (config.evaluate.every and done % config.evaluate.every == 0):
            evaluate(done)
            since = time.perf_counter()
        if done == config.steps or (
            config.checkpoint.every and done % config.checkpoint.every == 0
        ):
            checkpoints.save(state, meta)
