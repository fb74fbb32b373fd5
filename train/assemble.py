"""Assembly of a run: data, tokenizer, architectures, weights, optimizer.

Everything that can fail on bad input happens here, before any training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from data import pipeline, splits
from data.config import DataConfig
from data.pipeline import Data
from data.prepare import row_cache
from data.schemas.examples import example_text
from data.splits import Examples
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from model import cpu, lora, sharding
from model.config import TransformerConfig
from model.mimetic import mimetic
from ranges import ConfigError
from train import optimizer
from train import trainable as parts_
from train.checkpoints import loading, networks, saved_models
from train.config.run import RunConfig
from train.evals import registry as evals
from train.objectives import registry
from train.objectives.base import Context, Objective, Stage
from train.rl import rewards
from train.rl.forward import CRITICS
from train.runtime import outputs
from train.step import TrainState
from train.terminal.console import console
from train.terminal.progress import phase
from train.trainable import Partition


class Run(NamedTuple):
    """A stage that is ready to train.

    Attributes:
      evaluations: the stage's own first, then those of `config.evals`.
      tx: the optimizer. abstract: shapes, dtypes and shardings of the state.
      parts: {trained role: its `Partition`}.
      frozen: {role: frozen parameters}. origins: {role: their origin and fingerprint}, saved in
        checkpoints. content: {setting: fingerprint} of the tokenizer and of the rows, also saved in
        checkpoints.
    """

    ctx: Context
    objective: Objective
    stage: Stage
    evaluations: tuple[evals.Scheduled, ...]
    tx: Any
    abstract: TrainState
    parts: dict[str, Partition]
    frozen: dict
    origins: dict
    content: dict[str, str]


def setup(
    config: RunConfig,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh,
    examples: Examples | None = None,
    open_data: Callable[[Tokenizer], Data] | None = None,
) -> Run:
    """Opens everything that a run needs, except the trained weights. Writes only the files that the
    objective precomputes. Call it under `jax.set_mesh(mesh)`.

    Args:
      examples: the examples of `config.data`, if they have been read already.
      open_data: (tokenizer) -> Data, instead of the files that the config names.
    """
    objective = registry.validate(config, mesh)
    evals.validate(config, objective)
    registry.check_origins(config)
    ctx = open_context(config, objective, workdir, mesh, examples, open_data)
    content = {"tokenizer": ctx.tokenizer.fingerprint, "data": ctx.data.fingerprint()}
    if ctx.pretrain_data:
        content["pretrain_data"] = ctx.pretrain_data.fingerprint()
    content |= {f"evals.{name}": data.fingerprint() for name, data in ctx.evals.items()}
    whole = {r: networks.abstract_params(r, ctx.models[r], mesh) for r in objective.trainable}
    parts = parts_.divide(config, whole)
    frozen, origins = load_frozen(config, objective, ctx.models, mesh, parts, whole)
    if "reward" in frozen:
        ctx = dataclasses.replace(ctx, normalizer=rewards.normalizer(config, origins))
    sets = dict(ctx.evals)
    if objective.precompute:
        for name, data in sets.items():
            if evals.schema_of(name, config.evals[name], objective) == objective.schema:
                heldout_only = dataclasses.replace(data, train=data.heldout)
                eval_ctx = dataclasses.replace(ctx, data=heldout_only)
                folder = epath.Path(workdir) / "evals" / name
                outputs.make_folder(folder)
                sets[name] = objective.precompute(eval_ctx, frozen, origins, folder)[0].data
        ctx, frozen = objective.precompute(ctx, frozen, origins, workdir)
    stage = objective.build(ctx)
    evaluations = tuple(
        e._replace(evaluate=parts_.joined_evaluation(e.evaluate, parts))
        for e in evals.build(ctx, stage, sets)
    )
    stage = parts_.joined(stage, parts)
    trainable = {r: parts[r].trained(whole[r]) for r in objective.trainable}
    abstract, tx = abstract_state(config, trainable, mesh, stage.source)
    return Run(ctx, objective, stage, evaluations, tx, abstract, parts, frozen, origins, content)


def open_context(
    config: RunConfig,
    objective: Objective,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh,
    examples: Examples | None,
    open_data: Callable[[Tokenizer], Data] | None,
) -> Context:
    """Opens data, tokenizer and architectures, with every check of the input."""

    @functools.cache
    def read():
        return examples or read_source(config.data, objective.schema)

    save_rows: list[Callable[[], None]] = []

    def open_rows(name, settings, schema, read_examples) -> Data:
        prompt_length = config.rl.prompt_length if schema == "prompt" else 0
        with contextlib.ExitStack() as packing:

            def read_examples_first():
                examples = read_examples()
                packing.enter_context(phase(f"packing {name}"))
                return examples

            data, save = row_cache.open_data(
                epath.Path(workdir) / "rows" / f"{name}.zip", settings, schema, tokenizer,
                read_examples_first, prompt_length,
                console.print if jax.process_index() == 0 else lambda text: None,
            )  # fmt: skip
        save_rows.append(save)
        return data

    tokenizer = make_tokenizer(config, workdir, lambda: () if open_data else read().train)
    models = resolve_models(config, objective, tokenizer.vocab_size)
    lengths = [entry.length for entry in config.evals.values()]
    longest = max(config.data.length, config.data.heldout_length, *lengths)
    lower = "data.length"
    if objective.rollouts:
        lower = "rl.prompt_length or rl.response_length"
        longest = config.rl.prompt_length + config.rl.response_length
    for role, model in models.items():
        if longest > model.max_length:
            raise ConfigError(
                f"rows of {longest} tokens are longer than the {role}'s context, "
                f"model.max_length={model.max_length}; lower {lower}"
            )
    if open_data:
        data = open_data(tokenizer)
    elif examples:
        with phase(f"packing {objective.schema}"):
            data = pipeline.open_data(
                config.data, objective.schema, tokenizer, examples, config.rl.prompt_length
            )
    else:
        data = open_rows(objective.schema, config.data, objective.schema, read)
    pretrain_data = None
    if objective.rollouts and config.rl.pretrain_coef:
        text = config.pretrain_data
        read_text = functools.partial(read_source, text, "text")
        pretrain_data = open_rows("text", text, "text", read_text)
    sets = evals.read_own(config, objective)
    for name, entry in config.evals.items():
        if entry.source and name not in sets:
            schema = evals.schema_of(name, entry, objective)
            settings = evals.data_config(config, entry, schema, objective)
            read_set = functools.partial(read_source, settings, schema, True)
            sets[name] = open_rows(f"evals-{name}", settings, schema, read_set)
    return Context(
        config, models, tokenizer, data, mesh, pretrain_data, sets, save_rows=tuple(save_rows)
    )


def read_source(config: DataConfig, schema: str, heldout_only: bool = False) -> Examples:
    """`splits.read_examples`, as a phase that the terminal shows."""
    names = [str(source.source) for source in config.sources().values()]
    with phase(f"reading {', '.join(names):.60}"):
        return splits.read_examples(config, schema, heldout_only)


def make_tokenizer(
    config: RunConfig, workdir: epath.PathLike, examples: Callable[[], Iterable[Mapping]]
) -> Tokenizer:
    """The run's tokenizer: the one saved in its workdir, else that of the runs it starts from, else
    a new one, trained on `examples()`.

    Raises:
      ConfigError: the runs it starts from, its workdir and `tokenizer.path` differ in tokenizers.
    """
    saved = (epath.Path(workdir) / "tokenizer" / "tokenizer.json").exists()
    tokenizer = tokenizers.load(workdir) if saved else None
    origins = {f"init_from.{role}": path for role, path in config.init_from.items()}
    prepared = [folder for folder in config.data.prepared_folders() if folder]
    origins |= {f"the prepared source {folder}": folder for folder in prepared}
    if config.tokenizer.path:
        origins["tokenizer.path"] = config.tokenizer.path
    for name, path in origins.items():
        other = tokenizers.load(path)
        if tokenizer is not None and other.fingerprint != tokenizer.fingerprint:
            raise ConfigError(
                f"{name}={path} has another tokenizer ({other.fingerprint}) than this run "
                f"({tokenizer.fingerprint}), so ids would mean other text. Start from runs that "
                "share one, or leave tokenizer.path empty"
            )
        tokenizer = tokenizer or other
    if tokenizer is None:
        settings = config.tokenizer
        texts = [example_text(example) for example in examples()]
        with phase("training the tokenizer"):
            tokenizer = tokenizers.train(settings.kind, texts, settings.vocab_size, settings.fim)
    return tokenizer


def resolve_models(
    config: RunConfig, objective: Objective, vocab_size: int
) -> dict[str, TransformerConfig]:
    """{role: architecture}, of the runs that a stage starts from, else of `config.model`."""
    model: Any = config.model  # its class is created at run time (train/config/model.py)
    models = {}
    execution = model.execution()
    for role in objective.trainable:
        pool = dict(pool=config.loss.pool) if role == "reward" else {}
        origin = _origin(config, objective, role)
        if origin is None:
            models[role] = dataclasses.replace(model.build(vocab_size), **pool)
            continue
        inherited = saved_models.model_config(config.init_from[origin], origin, **execution | pool)
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
    for role in (*objective.frozen, *objective.optional):
        path = config.init_from.get(role)
        if role == "reference":
            path = path or config.init_from["policy"]
        if path:
            models[role] = saved_models.model_config(path, role, **execution)
    return models


def _origin(config: RunConfig, objective: Objective, role: str) -> str | None:
    """The role of `init_from` that a trained role starts from, or None."""
    return next((o for o in objective.origins[role] if o in config.init_from), None)


def load_frozen(
    config: RunConfig,
    objective: Objective,
    models: Mapping[str, TransformerConfig],
    mesh: jax.sharding.Mesh,
    parts: Mapping[str, Partition],
    whole: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, dict]]:
    """({role: frozen weights}, {role: their origin and fingerprint, for the checkpoint}).

    If the policy starts from the reference, both share the policy's frozen arrays.

    Args:
      parts: partitions of the trained roles (train/trainable.py). whole: shapes of all of their
        parameters.
    """
    frozen, origins, initial = {}, {}, {}
    for role, part in parts.items():
        if part.frozen:
            base, origins[role] = load_base(config, objective, role, part, whole[role])
            initial[role], frozen[role] = part.split(base)
            frozen[role] = part.freeze(frozen[role])
    for role in (*objective.frozen, *objective.optional):
        if role not in models:
            continue
        path = config.init_from.get(role) or config.init_from["policy"]
        if role == "reference" and "policy" in frozen and path == config.init_from["policy"]:
            frozen[role] = parts_.join_trees(frozen["policy"], initial["policy"])
            origins[role] = origins["policy"]
            continue
        abstract = networks.abstract_params(role, models[role], mesh)
        frozen[role] = loading.load_params(path, role, abstract)
        identity = loading.identity(path, role, frozen[role])
        origins[role] = {"from": path, "fingerprint": identity}
    return frozen, origins


def load_base(
    config: RunConfig, objective: Objective, role: str, part: Partition, abstract: Mapping[str, Any]
) -> tuple[dict, dict[str, str]]:
    """(weights from which a partly frozen role starts, their origin).

    Raises:
      ConfigError: a frozen weight would be random.
    """
    origin = _origin(config, objective, role)
    if origin is None:
        raise ConfigError(
            f"weights of the {role} are frozen (freeze.*, lora.*), and it starts from no trained "
            f"model; type --config.init_from.{objective.origins[role][0]}=WORKDIR"
        )
    path = config.init_from[origin]
    base, identity = loading.load_base(path, origin, role, abstract)
    for name in sorted(part.frozen - flatten_dict(base).keys()):
        raise ConfigError(
            f"{role}/{'/'.join(name)} is frozen, and init_from.{origin}={path} has no such weight: "
            "it would stay random. Let freeze.trained match it"
        )
    return base, {"from": path, "role": origin, "fingerprint": identity}


def optimizer_configs(config: RunConfig, roles: Iterable[str]) -> dict[str, Any]:
    """{trained role: the settings of its optimizer}."""
    return {r: config.value_optimizer if r in CRITICS else config.optimizer for r in roles}


def abstract_state(
    config: RunConfig, trainable: Mapping[str, Any], mesh: jax.sharding.Mesh, source: Any
) -> tuple[TrainState, optax.GradientTransformation]:
    """(shapes, dtypes and shardings of the whole `TrainState`, the optimizer)."""
    tx = optimizer.make_optimizer(optimizer_configs(config, trainable), config.steps)
    replicated = sharding.replicated(mesh)
    shardings = jax.tree.map(lambda x: x.sharding, trainable)
    moments = jax.eval_shape(tx.init, trainable)
    placed = optimizer.opt_state_shardings(moments, trainable, shardings, replicated)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    opt_state = networks.with_shardings(moments, placed)
    state = TrainState(step, trainable, opt_state, networks.to_abstract(source.init()), step)
    return state, tx


def init_state(run: Run) -> TrainState:
    """The state at step 0, every array created with its sharding."""
    mesh, abstract = run.ctx.mesh, run.abstract
    trainable = init_trainable(run, abstract.trainable)
    shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    opt_state = jax.jit(run.tx.init, out_shardings=shardings)(trainable)
    # Two arrays, because both are donated.
    step, skipped = (jax.device_put(jnp.int32(0), sharding.replicated(mesh)) for _ in range(2))
    return TrainState(step, trainable, opt_state, run.stage.source.init(), skipped)


def init_trainable(run: Run, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters on the mesh: loaded where `init_from` names them, else newly initialized."""
    ctx, config, trainable = run.ctx, run.ctx.config, {}
    for number, role in enumerate(run.objective.trainable):
        model, part = ctx.models[role], run.parts[role]
        whole = networks.abstract_params(role, model, ctx.mesh)
        adapters = part.adapters(whole)
        origin = _origin(config, run.objective, role)
        wanted = flatten_dict(abstract[role])
        weights = wanted.keys() - flatten_dict(adapters).keys()
        # An origin of another kind of network gives only its backbone.
        old = {p for p in weights if origin == role or (origin and p[0] == "backbone")}
        new = unflatten_dict({p: x for p, x in wanted.items() if p not in old})

        def init(key, role=role, model=model, adapters=adapters, new=new):
            params = nn.unbox(networks.init_params(role, model, key))
            if config.model.mimetic:
                params = mimetic(params, np.array(ctx.tokenizer.words()), key)
            params = flatten_dict(params) | flatten_dict(lora.init(key, adapters))
            return unflatten_dict({p: params[p] for p in flatten_dict(new)})

        params = {}
        if new:
            shardings = jax.tree.map(lambda x: x.sharding, new)
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            options = cpu.run_once_options()
            init = jax.jit(init, out_shardings=shardings, compiler_options=options)
            params = flatten_dict(init(key))
        if origin is not None and old:
            path = config.init_from[origin]
            base = flatten_dict(loading.load_from(path, origin, role, whole))
            params |= {p: base[p] for p in old}
        trainable[role] = unflatten_dict(params)
    return trainable
