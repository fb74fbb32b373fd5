"""What stands before the first step: data, tokenizer, architectures, weights, optimizer.

Everything that bad input can stop is done here, before any training.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from data import pipeline
from data.clean.duplicates import text_of
from data.fingerprint import fingerprint
from data.prepare import row_cache
from data.prepare.prepared import write_whole
from data.text import tokenizer as tokenizers
from model import lora, sharding
from model.mimetic import mimetic
from ranges import ConfigError
from train import optimizer
from train import trainable as parts_
from train.config.run import RunConfig
from train.objectives import registry
from train.rl import rewards
from train.rl.rollout import CRITICS
from train.runtime import checkpoint, outputs, strict_json
from train.runtime.metrics import console
from train.step import TrainState


class Run(NamedTuple):
    """A stage that is ready to train.

    Attributes:
      tx: the optimizer. abstract: shapes, dtypes and shardings of the state.
      parts: {trained role: what of it is trained}.
      frozen: {role: parameters}, of a trained role those that are not; origins: where they came
        from and their fingerprints, for the checkpoint. content: fingerprints of the tokenizer and
        of the rows, by the name of their settings, for the checkpoint too.
    """

    ctx: registry.Context
    row: registry.StageRow
    stage: registry.Stage
    tx: Any
    abstract: TrainState
    parts: dict[str, parts_.Parts]
    frozen: dict
    origins: dict
    content: dict[str, str]


def setup(config: RunConfig, workdir, mesh, examples=None, open_data=None) -> Run:
    """Opens everything a run needs but its weights, and writes nothing but what a stage prepares
    once; call it under `jax.set_mesh(mesh)`.

    Args:
      examples: of `config.data`, where they were read already.
      open_data: (tokenizer) -> Data, in place of the files that the config names.
    """
    row = registry.check(config, mesh)
    ctx = open_context(config, row, workdir, mesh, examples, open_data)
    content = {"tokenizer": ctx.tokenizer.fingerprint, "data": fingerprint(ctx.data)}
    if ctx.pretrain_data:
        content["pretrain_data"] = fingerprint(ctx.pretrain_data)
    whole = {r: checkpoint.abstract_params(r, ctx.models[r], mesh) for r in row.trainable}
    parts = parts_.divide(config, whole)
    frozen, origins = load_frozen(config, row, ctx.models, mesh, parts, whole)
    if "reward" in frozen:
        ctx = dataclasses.replace(ctx, normalizer=rewards.normalizer(config, origins))
    if row.prepare:
        ctx, frozen = row.prepare(ctx, frozen, origins, workdir)
    stage = parts_.joined(row.build(ctx), parts)
    trainable = {r: parts[r].trained(whole[r]) for r in row.trainable}
    abstract, tx = abstract_state(config, trainable, mesh, stage.source)
    return Run(ctx, row, stage, tx, abstract, parts, frozen, origins, content)


def open_context(config: RunConfig, row, workdir, mesh, examples, open_data) -> registry.Context:
    """Data, tokenizer and architectures: everything that bad input can stop."""

    @functools.cache
    def read():
        return examples or pipeline.read_examples(config.data, row.schema)

    keeps = []

    def opened(settings, schema, found, prompt_length=0):
        data, keep = row_cache.open_data(
            epath.Path(workdir) / "rows" / f"{schema}.zip", settings, schema, tokenizer, found,
            prompt_length, console.print if jax.process_index() == 0 else lambda text: None,
        )  # fmt: skip
        keeps.append(keep)
        return data

    tokenizer = make_tokenizer(config, workdir, lambda: () if open_data else read().train)
    models = resolve_models(config, row, tokenizer.vocab_size)
    longest = max(config.data.length, config.data.heldout_length)
    if row.schema == "prompt":
        longest = config.rl.prompt_length + config.rl.response_length
    for role, model in models.items():
        if longest > model.max_length:
            raise ConfigError(
                f"rows of {longest} tokens are longer than the {role}'s context, "
                f"model.max_length={model.max_length}"
            )
    if open_data:
        data = open_data(tokenizer)
    elif examples:
        data = pipeline.open_data(
            config.data, row.schema, tokenizer, examples, config.rl.prompt_length
        )
    else:
        data = opened(config.data, row.schema, read, config.rl.prompt_length)
    mix = None
    if row.schema == "prompt" and config.rl.pretrain_coef:
        text = config.pretrain_data
        mix = opened(text, "text", lambda: pipeline.read_examples(text, "text"))
    return registry.Context(config, models, tokenizer, data, mesh, mix, keeps=tuple(keeps))


def save_facts(run: Run, workdir) -> None:
    """Writes what later stages and people read beside the checkpoints."""
    if not (workdir / "tokenizer" / "tokenizer.json").exists():
        run.ctx.tokenizer.save(workdir / "tokenizer")
    for keep in run.ctx.keeps:
        try:
            keep()
        except OSError as error:
            outputs.failed("rows", error, "rows are made anew at the next start")
    checkpoint.save_models(workdir, {r: run.ctx.models[r] for r in run.row.trainable})
    checkpoint.save_parts(workdir, run.parts, run.origins)
    write_whole(workdir / "config.json", config_json(run.ctx.config) + "\n")


def make_tokenizer(config: RunConfig, workdir, examples) -> tokenizers.Tokenizer:
    """The run's tokenizer: its own if it has one, the one it starts from, or a new one, of the
    training `examples()`.

    Raises:
      ConfigError: runs it starts from, or `tokenizer.path`, have different tokenizers.
    """
    own = (epath.Path(workdir) / "tokenizer").exists()
    tokenizer = tokenizers.load(workdir) if own else None
    origins = {f"init_from.{role}": path for role, path in config.init_from.items()}
    prepared = [folder for folder in config.data.prepared() if folder]
    origins |= {f"the prepared source {folder}": folder for folder in prepared}
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
        texts = [text_of(example) for example in examples()]
        tokenizer = tokenizers.train(settings.kind, texts, settings.vocab_size, settings.fim)
    return tokenizer


def resolve_models(config: RunConfig, row: registry.StageRow, vocab_size: int):
    """{role: architecture}: of the runs that a stage starts from, or of `config.model`."""
    model, models = config.model, {}
    execution = model.execution()
    for role in row.trainable:
        pool = dict(pool=config.loss.pool) if role == "reward" else {}
        origin = next((o for o in row.origins[role] if o in config.init_from), None)
        if origin is None:
            models[role] = dataclasses.replace(model.build(vocab_size), **pool)
            continue
        inherited = checkpoint.model_config(config.init_from[origin], origin, **execution | pool)
        if model.size and dataclasses.replace(model.build(vocab_size), **pool) != inherited:
            raise ConfigError(
                f"model.size={model.size!r} is not the architecture of "
                f"init_from.{origin}={config.init_from[origin]}; leave model.size empty to take it"
            )
        for key, value in model.changes().items():
            if value != (theirs := getattr(inherited, key)):
                raise ConfigError(
                    f"model.{key}={value} and init_from.{origin}={config.init_from[origin]}, which "
                    f"has {theirs} and keeps it; leave model.{key} out"
                )
        models[role] = inherited
    for role in (*row.frozen, *row.optional):
        path = config.init_from.get(role)
        if role == "reference":
            path = path or config.init_from["policy"]
        if path:
            models[role] = checkpoint.model_config(path, role, **execution)
    return models


def load_frozen(config: RunConfig, row: registry.StageRow, models, mesh, parts, whole):
    """Frozen weights by role, and what a checkpoint keeps of them: where from, and fingerprints.

    A reference that the policy starts from shares the policy's frozen arrays.

    Args:
      parts: of the trained roles (train/trainable.py). whole: shapes of all of their parameters.
    """
    frozen, origins, begun = {}, {}, {}
    for role, part in parts.items():
        if part.frozen:
            base, origins[role] = load_base(config, row, role, part, whole[role])
            begun[role], frozen[role] = part.split(base)
            frozen[role] = part.freeze(frozen[role])
    for role in (*row.frozen, *row.optional):
        if role not in models:
            continue
        path = config.init_from.get(role) or config.init_from["policy"]
        if role == "reference" and "policy" in frozen and path == config.init_from["policy"]:
            frozen[role] = parts_.join_trees(frozen["policy"], begun["policy"])
            origins[role] = origins["policy"]
            continue
        abstract = checkpoint.abstract_params(role, models[role], mesh)
        frozen[role] = checkpoint.load_params(path, role, abstract)
        found = checkpoint.identity(path, role, frozen[role])
        origins[role] = {"from": path, "fingerprint": found}
    return frozen, origins


def load_base(config: RunConfig, row: registry.StageRow, role: str, part, abstract):
    """The weights that a trained role with frozen ones starts from, and where they came from.

    Raises:
      ConfigError: a frozen weight would be a new one.
    """
    origin = next((o for o in row.origins[role] if o in config.init_from), None)
    if origin is None:
        raise ConfigError(
            f"weights of the {role} are frozen (freeze.*, lora.*), and it starts from no trained "
            f"model; type --config.init_from.{row.origins[role][0]}=WORKDIR"
        )
    path = config.init_from[origin]
    base, found = checkpoint.load_base(path, origin, role, abstract)
    for name in sorted(part.frozen - flatten_dict(base).keys()):
        raise ConfigError(
            f"{role}/{'/'.join(name)} is frozen, and init_from.{origin}={path} has no such weight: "
            "it would stay random. Let freeze.trained match it"
        )
    return base, {"from": path, "role": origin, "fingerprint": found}


def abstract_state(config: RunConfig, trainable, mesh, source):
    """Shapes, dtypes and shardings of the whole `TrainState`, and the optimizer."""
    configs = {r: config.value_optimizer if r in CRITICS else config.optimizer for r in trainable}
    tx = optimizer.make_optimizer(configs, config.steps)
    everywhere = sharding.replicated(mesh)
    shardings = jax.tree.map(lambda x: x.sharding, trainable)
    moments = jax.eval_shape(tx.init, trainable)
    placed = optimizer.opt_state_shardings(moments, trainable, shardings, everywhere)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    opt_state = checkpoint.with_shardings(moments, placed)
    state = TrainState(step, trainable, opt_state, checkpoint.to_abstract(source.init()), step)
    return state, tx


def init_state(run: Run) -> TrainState:
    """The state at step 0, every array made in its place."""
    mesh, abstract = run.ctx.mesh, run.abstract
    trainable = init_trainable(run, abstract.trainable)
    shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    opt_state = jax.jit(run.tx.init, out_shardings=shardings)(trainable)
    # An array each: both are donated.
    step, skipped = (jax.device_put(jnp.int32(0), sharding.replicated(mesh)) for _ in range(2))
    return TrainState(step, trainable, opt_state, run.stage.source.init(), skipped)


def init_trainable(run: Run, abstract):
    """Fresh parameters placed on the mesh, then the weights that `init_from` names."""
    ctx, row, config, trainable = run.ctx, run.row, run.ctx.config, {}
    for number, role in enumerate(row.trainable):
        model, part = ctx.models[role], run.parts[role]
        whole = checkpoint.abstract_params(role, model, ctx.mesh)
        adapters = part.adapters(whole)
        origin = next((o for o in row.origins[role] if o in config.init_from), None)
        wanted = flatten_dict(abstract[role])
        weights = wanted.keys() - flatten_dict(adapters).keys()
        # Of another kind of network the backbone alone.
        old = {p for p in weights if origin == role or (origin and p[0] == "backbone")}
        new = unflatten_dict({p: x for p, x in wanted.items() if p not in old})

        def init(key, role=role, model=model, adapters=adapters, new=new):
            params = nn.unbox(checkpoint.init_params(role, model, key))
            if config.model.mimetic:
                params = mimetic(params, np.array(ctx.tokenizer.words()), key)
            made = flatten_dict(params) | flatten_dict(lora.init(key, adapters))
            return unflatten_dict({p: made[p] for p in flatten_dict(new)})

        params = {}
        if new:
            shardings = jax.tree.map(lambda x: x.sharding, new)
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            params = flatten_dict(jax.jit(init, out_shardings=shardings)(key))
        if old:
            path = config.init_from[origin]
            base = flatten_dict(checkpoint.load_from(path, origin, role, whole))
            params |= {p: base[p] for p in old}
        trainable[role] = unflatten_dict(params)
    return trainable


def config_json(config: RunConfig) -> str:
    return strict_json.dumps(dataclasses.asdict(config), indent=2)
