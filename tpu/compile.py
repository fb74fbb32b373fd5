"""Compiles a recipe's train step for a TPU slice that is not there, and says what it takes.

    python -m tpu.compile --config=configs/pretrain.py:size=8b --topology=v5p:4x4x4 \\
        --vocab_size=128256 --config.mesh.data=1 --config.mesh.fsdp=64 --config.data.length=8192

The step is the one that `python -m train` runs: same loss, optimizer, shardings and compiler
options. Needs libtpu (`pip install 'jax[tpu]'`), no TPU. Exit code 1: it does not fit, or gathers
the weights of all layers at once.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from ml_collections import config_flags

from train import command

GIB = 2**30


class DoesNotFit(ValueError):
    """The program needs more memory than a device has."""


class Step(NamedTuple):
    """A compiled train step, the text of its program, and the state it was compiled for (a tree of
    `jax.ShapeDtypeStruct`)."""

    compiled: object
    text: str
    state: object
    num_layers: int
    tokens: int
    seconds: float


def abstract_batch(config, schema: str, mesh):
    """Shapes of a global batch, through the data pipeline with one made-up example."""
    import jax

    from data import pipeline, tokenizer
    from model.sharding import batch_sharding

    bytes_ = tokenizer.train("byte", [], 0)
    asked = [{"role": "user", "content": "a"}]
    answered = [*asked, {"role": "assistant", "content": "b"}]
    example = {
        "text": "a" * (2 * config.data.length),
        "messages": answered if schema == "chat" else asked,
        "responses": ["b", "c"],
        "rank": [0, 1],
        "kinds": ["", ""],
    }
    examples = pipeline.Examples([example], [example], Counter())
    data = pipeline.open_data(config.data, schema, bytes_, examples)
    sharding, rows = batch_sharding(mesh), config.data.batch_size
    return (
        {
            name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding)
            for name, x in data.train.items()
        },
        data,
        bytes_,
    )


def compile_step(config, mesh, vocab_size: int) -> Step:
    """Compiles the train step of a `RunConfig` for the devices of `mesh`.

    Args:
      vocab_size: of the tokenizer, which is not read.

    Raises:
      DoesNotFit: the compiler says so. ConfigError, ShardingError: as a run would.
    """
    import jax

    from tpu.chips import COMPILER_OPTIONS
    from train import checkpoint, setup, stages
    from train import parts as parts_
    from train.config import ConfigError
    from train.step import make_train_step

    if config.stage in ("ppo", "grpo"):
        raise ConfigError(
            f"stage {config.stage} also samples, and only train steps are compiled here; compile "
            "the sft stage of the same size, and add the reference, the critic and the cache"
        )
    row = stages.check(config, mesh)
    batch, data, tokenizer = abstract_batch(config, row.schema, mesh)
    if config.stage == "dpo":
        like = batch["rank"]
        batch["ref_logprobs"] = jax.ShapeDtypeStruct(like.shape, "float32", sharding=like.sharding)
    models = {role: config.model.build(vocab_size) for role in row.trainable}
    # What a stage prepares besides the step runs here, so not under the mesh.
    whole = {r: checkpoint.abstract_params(r, models[r], mesh) for r in row.trainable}
    parts = parts_.divide(config, whole)
    stage = row.build(stages.Context(config, models, tokenizer, data, mesh))
    stage = parts_.joined(stage, parts)
    trainable = {r: part.trained(whole[r]) for r, part in parts.items()}
    frozen = {r: p.freeze(p.split(whole[r])[1]) for r, p in parts.items() if p.frozen}
    state, tx = setup.abstract_state(config, trainable, mesh, stage.source)
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform, {})
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as dump:
        # The compiler's dump, as `as_text()` fails on programs that libtpu 0.0.52 cannot send back.
        options = options | {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        step = jax.jit(
            make_train_step(stage, tx, config.accumulate),
            donate_argnums=0,
            compiler_options=options,
        )
        start = time.perf_counter()
        try:
            compiled = step.lower(state._replace(source=()), frozen, batch).compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            raise DoesNotFit(_too_large(str(e), mesh)) from e
        seconds, text = time.perf_counter() - start, dumped(dump)
    layers = next(iter(models.values())).num_layers
    return Step(compiled, text, state, layers, batch["tokens"].size, seconds)


def dumped(folder) -> str:
    """The text of the program that XLA wrote into an empty `--xla_dump_to` folder.

    libtpu writes it once more with its estimates of cycles, which the optimized program lacks.
    """
    files = [
        *Path(folder).rglob("*after_codegen.txt"),
        *Path(folder).rglob("*after_optimizations.txt"),
    ]
    return files[0].read_text()


def _too_large(message: str, mesh) -> str:
    kind = mesh.devices.flat[0].device_kind
    used = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", message)
    used = used or re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", message)
    sizes = f"{used[1]} of the {used[2]}" if used else f"({message.splitlines()[0]}) more than what"
    return (
        f"out of memory: the step takes {sizes} a {kind} has. Raise --config.mesh.fsdp, raise "
        "--config.accumulate or lower --config.data.batch_size, or recompute more "
        "(--config.model.remat=full)"
    )


def report(step: Step, mesh) -> dict:
    """Memory of a device in GiB, collectives, kernels, and the checks, as one JSON-able dict."""
    from tpu import hlo
    from tpu.chips import HBM_GIB

    memory, program = step.compiled.memory_analysis(), hlo.read(step.text)
    totals = defaultdict(lambda: {"count": 0, "gib": 0.0})
    for c in program.collectives:
        totals[c.kind]["count"] += c.times
        totals[c.kind]["gib"] += c.times * c.shape.bytes / GIB
    whole = hlo.gathers_of_whole_parameters(program, step.state.trainable, step.num_layers)
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
            "peak": memory.peak_memory_in_bytes / GIB,
            "device has": HBM_GIB.get(mesh.devices.flat[0].device_kind),
        },
        "collectives": dict(totals),
        "kernels": program.kernels,
        "cycles_without_kernels": program.cycles,
        "whole_parameter_gathers": [
            f"{c.shape.dtype}{list(c.shape.dims)}" for c in whole
        ],
    }  # fmt: skip


def show(facts: dict) -> str:
    """The report as text."""
    mesh = " × ".join(f"{name} {size}" for name, size in facts["mesh"].items()) or "one"
    lines = [
        f"{facts['devices']} × {facts['device']} ({mesh}), {facts['tokens_per_step']:,} tokens a "
        f"step, compiled in {facts['compile_seconds']} s",
        "memory of a device, GiB:",
        *(f"  {name:16} {size or 0:8.2f}" for name, size in facts["memory_gib"].items()),
        "collectives of a step (arrays as one device holds them, GiB):",
        *(f"  {k:18} {c['count']:6,} × {c['gib']:9.2f}" for k, c in facts["collectives"].items()),
        "Pallas kernels: "
        + (", ".join(f"{n} × {t}" for n, t in facts["kernels"].items()) or "none"),
    ]  # fmt: skip
    for shape in facts["whole_parameter_gathers"]:
        lines.append(f"gathers the weights of all layers at once: {shape}")
    return "\n".join(lines)


def main(argv):
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose metadata to ask for
    import jax

    from model import sharding
    from tpu.chips import topology
    from train.config import build

    jax.config.update("jax_enable_compilation_cache", False)  # a cached program leaves no dump
    f = flags.FLAGS
    try:
        config = build(command.config())
        mesh = sharding.make_mesh(config.mesh, topology(f.topology).devices)
        facts = report(compile_step(config, mesh, f.vocab_size), mesh)
    except ValueError as e:
        command.fail(str(e))
    print(show(facts))
    if f.json:
        with open(f.json, "w") as out:
            json.dump(facts, out, indent=1)
    if facts["whole_parameter_gathers"]:
        raise SystemExit(1)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A recipe, as configs/pretrain.py.")
    flags.DEFINE_string("topology", None, "The slice: v5e:4x4, v5p:4x4x4, v6e:16x16.")
    flags.DEFINE_integer("vocab_size", 32000, "Ids of the tokenizer, which is not read.")
    flags.DEFINE_string("json", "", "Also write the report to this file.")
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main, flags_parser=command.parse_flags)
