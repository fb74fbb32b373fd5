"""A run that is ready to train, and its state at step 0."""

from __future__ import annotations

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

from data.pipeline import Data
from data.splits import Examples
from data.text.base import Tokenizer
from model import cpu, lora, sharding
from model.config import TransformerConfig
from model.mimetic import mimetic
from train import optimizer
from train.assembly import averages, budget, mup
from train.assembly import partition as parts_
from train.assembly.frozen import load_frozen
from train.assembly.inputs import open_context, origin_of
from train.assembly.moments import opt_state_shardings
from train.assembly.partition import Partition
from train.checkpoints import loading, networks, verification
from train.config.run import RunConfig
from train.evals import registry as evals
from train.objectives import registry
from train.objectives.base import Context, Objective, Stage
from train.rl import rewards
from train.rl.forward import CRITICS
from train.runtime import outputs
from train.step import TrainState


class Run(NamedTuple):
    """A stage that is ready to train.

    Attributes:
      evaluations: the stage's own first, then those of `config.evals`.
      tx: the optimizer. rates: {trained role: the learning rate of every update}, and ema_rates:
        {role: 1 − decay} of the averages, arguments of their programs.
      abstract: shapes, dtypes and shardings of the state.
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
    rates: dict[str, jax.Array]
    ema_rates: dict[str, jax.Array]
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
    budget.check(config, registry.find(config))
    objective = registry.validate(config, mesh)
    evals.validate(config, objective)
    registry.check_origins(config)
    if not verification.steps(workdir):  # a resumed run reads only frozen weights again
        loading.check_names(config.init_from)
    ctx = open_context(config, objective, workdir, mesh, examples, open_data)
    content = {"tokenizer": ctx.tokenizer.fingerprint, "data": ctx.data.fingerprint()}
    if ctx.pretrain_data:
        content["pretrain_data"] = ctx.pretrain_data.fingerprint()
    content |= {f"evals.{name}": data.fingerprint() for name, data in ctx.evals.items()}
    whole = {r: networks.abstract_params(r, ctx.models[r], mesh) for r in objective.trainable}
    parts = parts_.divide(config, whole)
    if config.budget:
        steps = budget.recorded_steps(config, workdir)
        resolved = budget.resolve(ctx, objective, whole, parts)
        config = dataclasses.replace(resolved, steps=steps or resolved.steps)
        ctx = dataclasses.replace(ctx, config=config)
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
    ctx = dataclasses.replace(ctx, evals=sets)
    return assemble(ctx, objective, parts, frozen, origins, content)


def assemble(
    ctx: Context, objective: Objective, parts: dict[str, Partition], frozen: dict, origins: dict,
    content: dict[str, str],
) -> Run:  # fmt: skip
    """A run of what has been opened, as long as `ctx.config.steps`."""
    config, mesh = ctx.config, ctx.mesh
    stage = objective.build(ctx)
    evaluations = tuple(
        e._replace(evaluate=parts_.joined_evaluation(e.evaluate, parts))
        for e in evals.build(ctx, stage, ctx.evals)
    )
    stage = parts_.joined(stage, parts)
    whole = {r: networks.abstract_params(r, ctx.models[r], mesh) for r in objective.trainable}
    trainable = {r: parts[r].trained(whole[r]) for r in objective.trainable}
    abstract, tx = abstract_state(config, ctx.models, trainable, mesh, stage.source)
    configs = optimizer_configs(config, trainable)
    rates = optimizer.rate_tables(configs, config.steps)
    ema_rates = {role: np.float32(1 - c.ema) for role, c in configs.items() if c.ema}
    rates, ema_rates = jax.device_put((rates, ema_rates), sharding.replicated(mesh))
    return Run(
        ctx, objective, stage, evaluations, tx, rates, ema_rates, abstract, parts, frozen, origins,
        content,
    )  # fmt: skip


def with_config(run: Run, config: RunConfig) -> Run:
    """The run with another number of steps."""
    ctx = dataclasses.replace(run.ctx, config=config)
    return assemble(ctx, run.objective, run.parts, run.frozen, run.origins, run.content)


def optimizer_configs(config: RunConfig, roles: Iterable[str]) -> dict[str, Any]:
    """{trained role: the settings of its optimizer}."""
    return {r: config.value_optimizer if r in CRITICS else config.optimizer for r in roles}


def abstract_state(
    config: RunConfig, models: Mapping[str, TransformerConfig], trainable: Mapping[str, Any],
    mesh: jax.sharding.Mesh, source: Any,
) -> tuple[TrainState, optax.GradientTransformation]:  # fmt: skip
    """(shapes, dtypes and shardings of the whole `TrainState`, the optimizer)."""
    configs = optimizer_configs(config, trainable)
    tx = optimizer.make_optimizer(configs, config.steps)
    tx = mup.scale_rates(tx, configs, {role: models[role].width_ratio for role in configs})
    replicated = sharding.replicated(mesh)
    shardings = jax.tree.map(lambda x: x.sharding, trainable)
    moments = jax.eval_shape(tx.init, trainable)
    placed = opt_state_shardings(moments, trainable, shardings, replicated)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    opt_state = networks.with_shardings(moments, placed)
    state = TrainState(step, trainable, opt_state, networks.to_abstract(source.init()), step)
    ema = {role: trainable[role] for role, c in configs.items() if c.ema}
    return state._replace(ema=ema or ()), tx


def init_state(run: Run) -> TrainState:
    """The state at step 0, every array created with its sharding."""
    mesh, abstract = run.ctx.mesh, run.abstract
    trainable = init_trainable(run, abstract.trainable)
    shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    opt_state = jax.jit(run.tx.init, out_shardings=shardings)(trainable)
    # Two arrays, because both are donated.
    step, skipped = (jax.device_put(jnp.int32(0), sharding.replicated(mesh)) for _ in range(2))
    state = TrainState(step, trainable, opt_state, run.stage.source.init(), skipped)
    return averages.begun(state, abstract.ema)


def init_trainable(run: Run, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters on the mesh: loaded where `init_from` names them, else newly initialized."""
    ctx, config, trainable = run.ctx, run.ctx.config, {}
    for number, role in enumerate(run.objective.trainable):
        model, part = ctx.models[role], run.parts[role]
        whole = networks.abstract_params(role, model, ctx.mesh)
        adapters = part.adapters(whole)
        origin = origin_of(config, run.objective, role)
        wanted = flatten_dict(abstract[role])
        weights = wanted.keys() - flatten_dict(adapters).keys()
        # An origin of another kind of network gives only its backbone.
        old = {p for p in weights if origin == role or (origin and p[0] == "backbone")}
        new = tuple((p, x) for p, x in wanted.items() if p not in old)
        params = {}
        if new:
            words = tuple(ctx.tokenizer.words()) if config.model.mimetic else ()
            init = _initializer(role, model, new, tuple(flatten_dict(adapters).items()), words)
            params = init(jax.random.fold_in(jax.random.key(config.seed), number))
        if origin is not None and old:
            path = config.init_from[origin]
            base = flatten_dict(loading.load_from(path, origin, role, whole))
            params |= {p: base[p] for p in old}
        trainable[role] = unflatten_dict(params)
    return trainable


# Kept, because the runs of a sweep differ in the key alone.
@functools.lru_cache(maxsize=16)
def _initializer(
    role: str, model: TransformerConfig, new: tuple, adapters: tuple, words: tuple
) -> Callable[[jax.Array], dict[tuple, jax.Array]]:
    """A jitted function, key -> {path: fresh parameter}.

    Args:
      new, adapters: ((path, shape with sharding), …) of the parameters to return, and of the
        adapters. words: of the tokenizer, [V], for the mimetic initialization; else ().
    """

    def init(key):
        params = nn.unbox(networks.init_params(role, model, key))
        if words:
            params = mimetic(params, np.array(words), key)
        params = flatten_dict(params) | flatten_dict(lora.init(key, unflatten_dict(dict(adapters))))
        return {path: params[path] for path, _ in new}

    shardings = {path: shape.sharding for path, shape in new}
    return jax.jit(init, out_shardings=shardings, compiler_options=cpu.run_once_options())
