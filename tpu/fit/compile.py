"""Ahead-of-time compilation of a recipe's train step for a TPU slice that need not exist.

The step is the one that `python -m train` runs: same loss, optimizer, shardings and compiler
options.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:  # JAX is imported after the environment is set
    import jax

    from data.pipeline import Data
    from data.text.base import Tokenizer
    from model.config import TransformerConfig
    from train.config.run import RunConfig
    from train.rl.rollout import RolloutSource
    from train.step import TrainState

GIB = 2**30


class DoesNotFit(ValueError):
    """The program needs more memory than a device has.

    Attributes:
      needed: GiB that it needs, or None where the compiler did not report it. largest: [(GiB, the
        arrays that share it)] of its largest buffers.
    """

    def __init__(
        self,
        message: str,
        needed: float | None = None,
        largest: Iterable[tuple[float, str]] = (),
    ):
        super().__init__(message)
        self.needed, self.largest = needed, list(largest)


class CompiledProgram(NamedTuple):
    """A compiled program of a run.

    Attributes:
      compiled: the result of `jax.stages.Lowered.compile`. text: its HLO.
      state, frozen: those of the run, trees of `jax.ShapeDtypeStruct` with shardings.
      model: the architecture of the first trained role. parameters: of all trained roles.
      tokens: in a train step, padding included.
      flops_per_token: of a train step, with its share of a rollout. seconds: of compilation.
      mesh: the mesh that it runs on.
    """

    compiled: Any
    text: str
    state: TrainState
    frozen: Any
    model: TransformerConfig
    parameters: int
    tokens: int
    flops_per_token: float
    seconds: float
    mesh: jax.sharding.Mesh


def abstract_batch(
    config: RunConfig, schema: str, mesh: jax.sharding.Mesh
) -> tuple[dict[str, Any], Data, Tokenizer]:
    """(shapes of a global batch, the data, its tokenizer) for one artificial example, whose first
    row is every row of the batch."""
    import jax
    import numpy as np

    from data import pipeline
    from data.text import tokenizer
    from model.sharding import batch_sharding

    byte_tokenizer = tokenizer.train("byte", [], 0)
    prompt = [{"role": "user", "content": "a"}]
    conversation = [*prompt, {"role": "assistant", "content": "b"}]
    example = {
        "text": "a" * (2 * config.data.length),
        "messages": conversation if schema == "chat" else prompt,
        "responses": ["b", "c"],
        "rank": [0, 1],
        "kinds": ["", ""],
        "where": "",
    }
    examples = pipeline.Examples([example], [example], Counter())
    data = pipeline.open_data(
        config.data, schema, byte_tokenizer, examples, config.rl.prompt_length
    )
    sharding, rows = batch_sharding(mesh), config.data.batch_size
    assert isinstance(data.train, dict)  # neither prepared nor joined rows
    train = {name: np.broadcast_to(x[:1], (rows, *x.shape[1:])) for name, x in data.train.items()}
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in train.items()
    }
    return batch, dataclasses.replace(data, train=train), byte_tokenizer


def compile_programs(
    config: RunConfig, mesh: jax.sharding.Mesh, vocab_size: int
) -> dict[str, CompiledProgram]:
    """Compiles the programs of a run's loop for the devices of `mesh`: the train `step`, and for
    stages that sample also `sample`, `score` and `experience`.

    Args:
      config: its `init_from` is not read; the roles that the stage needs are assumed to exist.
      vocab_size: of the tokenizer, which is not read.

    Raises:
      DoesNotFit: the compiler found too little memory. ConfigError, ShardingError: as in a run.
    """
    import jax

    from tpu.fit import abstract
    from train.assembly import budget
    from train.assembly import partition as parts_
    from train.objectives.base import Context
    from train.runtime.flops import of_rollout, of_step
    from train.step import make_train_step, step_view

    config, row, models, whole, parts, frozen, state, tx = abstract.assemble(
        config, mesh, vocab_size
    )
    batch, data, tokenizer = abstract_batch(config, row.schema, mesh)
    batch |= row.precomputed(batch)
    # Other preparations of a stage run on this machine, outside of the mesh.
    built = row.build(Context(config, models, tokenizer, data, mesh))
    stage = parts_.joined(built, parts)

    programs, source = {}, ()
    if row.rollouts:
        stopped = jax.ShapeDtypeStruct((), "int32", sharding=state.step.sharding)
        source = step_view({"stopped": stopped})
        programs, batch = rollout_programs(cast("RolloutSource", built.source), whole, batch)
    step = make_train_step(stage, tx, config.accumulate, measure=config.statistics)
    train_step = jax.jit(step, donate_argnums=0)
    first = train_step, (state._replace(source=source), frozen, batch), mesh
    programs = {"step": first, **programs}

    model = models[row.trainable[0]]
    parameters = sum(budget.parameters(whole[role]) for role in row.trainable)
    tokens = batch["tokens"].size
    flops = of_step(config, models, {r: whole[r] for r in parts}, parts, tokens)
    if row.rollouts:
        steps = config.rl.epochs * config.rl.rollout_batch // config.data.batch_size
        flops += of_rollout(config, models) / steps
    compiled = {}
    for name, (function, args, its_mesh) in programs.items():
        with jax.set_mesh(its_mesh):
            program, text, seconds = _compile(function, args, its_mesh, models.values())
        compiled[name] = CompiledProgram(
            program, text, state, frozen, model, parameters, tokens, flops / tokens, seconds,
            its_mesh,
        )  # fmt: skip
    return compiled


def rollout_programs(
    source: RolloutSource, roles: Mapping[str, Any], prompts: dict[str, Any]
) -> tuple[dict[str, tuple], Any]:
    """({name: (jitted function, abstract arguments, mesh)} of a rollout, an abstract minibatch).

    Args:
      roles: {role: abstract parameters}. prompts: an abstract batch of prompts.
    """
    import jax
    import jax.numpy as jnp

    from model.sharding import batch_sharding
    from train.rl.experience import answers, shapes
    from train.rl.forward import CRITICS

    config = source.ctx.config
    rows = config.rl.rollout_batch
    sampler, mesh = source.sampler, source.ctx.mesh
    samples = source.groups.samples
    count = config.rl.answers_at_once // samples
    prompts = {
        name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=x.sharding)
        for name, x in prompts.items()
    }
    number = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    experience = shapes(source.ctx, rows)
    sampled = answers(experience)
    scores = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=experience["tokens"].sharding)
    policy, inputs = roles["policy"], (prompts["tokens"], prompts["mask"])
    if config.rl.int8_weights:
        policy = sampler.abstract_int8(policy)
    if sampler.mesh != mesh:
        policy = sampler.abstract_decoding(policy)
        place = batch_sharding(sampler.mesh)
        inputs = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in inputs)
    args = policy, *inputs, key, number, samples, config.rl.int8_cache
    programs = {"sample": (sampler.generate, args, sampler.mesh)}
    if "reward" in roles:
        args = source.ctx.models["reward"], roles["reward"], sampled
        programs["score"] = sampler.score_rows, args, mesh
    real = jax.ShapeDtypeStruct((), jnp.float32)
    scalars = {"kl_coef": real, "gain": real, "bias": real, "rollout": number}
    read_roles = ("policy", "reference", *CRITICS)
    roles = {r: tree for r, tree in roles.items() if r in read_roles}
    args = roles, sampled, scores, scalars, jax.ShapeDtypeStruct((), jnp.bool_)
    programs["experience"] = source.make_experience, args, mesh
    return programs, shapes(source.ctx, config.data.batch_size)


def _compile(function, args, mesh, models):
    """(compiled program, its HLO, seconds) of a jitted function, with a run's compiler options."""
    import jax

    from tpu.chips import compiler_options

    options = compiler_options(mesh.devices.flat[0], models)
    with tempfile.TemporaryDirectory() as dump:
        # HLO comes from a dump: `as_text()` fails on programs that libtpu 0.0.52 cannot return.
        options = options | {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        start = time.perf_counter()
        try:
            compiled = function.lower(*args).compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            raise _too_large(str(e), mesh, dump) from e
        return compiled, dumped(dump), time.perf_counter() - start


def dumped(folder: str | Path) -> str:
    """The HLO of the program that XLA wrote into an empty `--xla_dump_to` folder.

    Prefers libtpu's second copy, which has its estimates of cycles; the optimized program has none.
    """
    files = [
        *Path(folder).rglob("*after_codegen.txt"),
        *Path(folder).rglob("*after_optimizations.txt"),
    ]
    return files[0].read_text()


def _too_large(message: str, mesh, dump) -> DoesNotFit:
    kind = mesh.devices.flat[0].device_kind
    used = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", message)
    used = used or re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", message)
    sizes = f"{used[1]} of the {used[2]}" if used else f"({message.splitlines()[0]}) more than what"
    units = {"T": 1024, "G": 1, "M": 2**-10, "K": 2**-20}
    needed = float(used[1][:-1]) * units[used[1][-1]] if used else None
    reports = list(Path(dump).rglob("*memory-usage-report.txt"))
    return DoesNotFit(
        f"out of memory: the step takes {sizes} a {kind} has. Raise --config.mesh.fsdp, raise "
        "--config.accumulate or lower --config.data.batch_size, or recompute more "
        "(--config.model.remat=full)",
        needed,
        largest_buffers(reports[0].read_text()) if reports else (),
    )


def largest_buffers(text: str, count: int = 5) -> list[tuple[float, str]]:
    """[(GiB, the arrays that share it)] of a memory usage report that XLA dumped."""
    lines = re.findall(r"^.*?; +([\d.]+)GiB; +\d+; +\d+; (.*)$", text, re.MULTILINE)
    return [(float(size), arrays) for size, arrays in lines[:count]]


def peak_bytes(memory: Any) -> int:
    """The most memory of a device at once, of an executable's `memory_analysis`. With arrays in the
    host's memory the compiler's figure counts these: it is then the state, the batch and all
    temporaries of the device, which are at least as much as it holds at once."""
    if memory.host_temp_size_in_bytes:
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return memory.peak_memory_in_bytes


def summary(step: CompiledProgram, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Memory of a device in GiB, collectives, kernels and gathers of whole parameters, as a
    dict for JSON."""
    from tpu.chips import HBM_GIB
    from tpu.fit import hlo

    memory, program = step.compiled.memory_analysis(), hlo.read(step.text)
    totals: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "gib": 0.0})
    for c in program.collectives:
        totals[c.kind]["count"] += c.times
        totals[c.kind]["gib"] += c.times * c.shape.bytes / GIB
    whole = hlo.gathers_of_whole_parameters(program, step.state.trainable, step.model.num_layers)
    return {
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "tokens_per_step": step.tokens,
        "compile_seconds": round(step.seconds),
        "memory_gib": {
            "state and batch": memory.argument_size_in_bytes / GIB,
            "temporaries": memory.temp_size_in_bytes / GIB,
            "host": memory.host_temp_size_in_bytes / GIB,
            "peak": peak_bytes(memory) / GIB,
            "device has": HBM_GIB.get(mesh.devices.flat[0].device_kind),
        },
        "collectives": dict(totals),
        "kernels": program.kernels,
        "cycles_without_kernels": program.cycles,
        "whole_parameter_gathers": [
            f"{c.shape.dtype}{list(c.shape.dims)}" for c in whole
        ],
    }  # fmt: skip
