"""The report of `tpu.fit`: memory, traffic and time of a recipe's programs on a TPU slice."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX is imported after the environment is set
    from jax.sharding import Mesh

    from model.config import TransformerConfig
    from tpu.fit.compile import CompiledProgram
    from train.config.run import RunConfig

GIB = 2**30


def program_report(step: CompiledProgram, mesh: Mesh, config: RunConfig) -> dict[str, Any]:
    """Memory, traffic and time of one program, as a dict for JSON."""
    from model.weights import flops_per_token
    from tpu import chips
    from tpu.fit import compile, cost, hlo
    from tpu.fit.abstract import gib
    from train.runtime.flops import row_length

    kind, model = mesh.devices.flat[0].device_kind, step.model
    length = row_length(config)
    pairs = flops_per_token(model, length) - flops_per_token(model, 0)
    whole = 12.0 * model.num_layers * model.num_heads * model.head_dim * length
    estimate = cost.estimate(hlo.read(step.text), mesh, pairs / whole, _expert_share(model, mesh))
    by_axis: dict[str, float] = {}
    for t in estimate.traffic:
        by_axis[t.axes] = by_axis.get(t.axes, 0.0) + t.bytes
    memory = step.compiled.memory_analysis()
    return {
        "fits": True,
        **compile.summary(step, mesh),
        "parameters": step.parameters,
        "peak_bytes_per_chip": compile.peak_bytes(memory),
        "hbm_bytes_per_chip": chips.HBM_GIB[kind] * GIB,
        "state_gib": {
            "parameters": gib(step.state.trainable),
            "optimizer state": gib(step.state.opt_state),
            **({"averaged weights": gib(step.state.ema)} if step.state.ema else {}),
            "frozen weights": gib(step.frozen),
        },
        "predicted_step_seconds": estimate.step,
        "serial_step_seconds": estimate.serial,
        "seconds": {
            "compute": estimate.compute,
            "kernels": estimate.kernels,
            "ici": estimate.ici,
            "dcn": estimate.dcn,
        },
        "collective_bytes": by_axis,
        "traffic": [dataclasses.asdict(t) for t in estimate.traffic],
    } | _speed(step, mesh, estimate.step, estimate.compute + estimate.kernels)


def _expert_share(model: TransformerConfig, mesh: Mesh) -> float:
    """Share of the rows of a grouped matmul that belong to an expert of a device, where all experts
    have as many tokens (model/layers/moe.py)."""
    if not model.num_experts:
        return 1.0
    here, k = model.num_experts // mesh.shape["expert"], model.experts_per_token
    return k / min(k, here) * here / model.num_experts


def _speed(step: CompiledProgram, mesh: Mesh, seconds: float, busy: float) -> dict[str, float]:
    """Entries of a report by the seconds of a step, of which a chip computes for `busy`."""
    from tpu import chips

    flops = step.flops_per_token * step.tokens / mesh.size
    peak = chips.PEAK_FLOPS[mesh.devices.flat[0].device_kind]
    return {
        "flops_per_step_per_chip": flops,
        "mfu_bound": flops / peak / busy,
        "predicted_mfu": flops / peak / seconds,
        "tokens_per_second_per_chip": step.tokens / mesh.size / seconds,
    }


def stage_report(
    programs: Mapping[str, CompiledProgram], mesh: Mesh, config: RunConfig
) -> dict[str, Any]:
    """The report of all programs of a stage: that of the train step, in which the peak is the
    largest of any program added to everything that stays on a chip, and the seconds include a
    step's share of a rollout.

    Args:
      programs: {name: program}, `step` first.
    """
    reports = {name: program_report(step, step.mesh, config) for name, step in programs.items()}
    first = reports["step"]
    if len(reports) == 1:
        return first
    resident = sum(first["state_gib"].values()) * GIB
    peak = first["peak_bytes_per_chip"]
    for name, r in reports.items():
        # The inputs of a rollout are counted in `resident`, except weights resharded for decoding.
        own = programs[name].mesh == mesh
        shared = r["memory_gib"]["state and batch"] * GIB if own else 0
        if name != "step":
            peak = max(peak, resident + r["peak_bytes_per_chip"] - shared)
    steps = config.rl.epochs * config.rl.rollout_batch // config.data.batch_size
    rollout = sum(r["predicted_step_seconds"] for n, r in reports.items() if n != "step") / steps
    seconds = first["predicted_step_seconds"] + rollout
    shown = ("predicted_step_seconds", "serial_step_seconds", "peak_bytes_per_chip", "kernels")
    shown += ("collective_bytes", "whole_parameter_gathers", "compile_seconds")
    gathers = {g for r in reports.values() for g in r["whole_parameter_gathers"]}
    merged = first | {
        "whole_parameter_gathers": sorted(gathers),
        "peak_bytes_per_chip": int(peak),
        "predicted_step_seconds": seconds,
        "serial_step_seconds": first["serial_step_seconds"] + rollout,
        "steps_per_rollout": steps,
        "programs": {n: {k: r[k] for k in shown} for n, r in reports.items()},
    }
    busy = first["seconds"]["compute"] + first["seconds"]["kernels"] + rollout
    return merged | _speed(programs["step"], mesh, seconds, busy)


def show(report: dict) -> str:
    """The report as text for the terminal."""
    mesh = " × ".join(f"{name} {size}" for name, size in report["mesh"].items()) or "one"
    memory, state = report["memory_gib"], report["state_gib"]
    seconds, peak = report["seconds"], report["peak_bytes_per_chip"] / GIB
    other = memory["state and batch"] - sum(state.values())
    lines = [
        f"{report['devices']} × {report['device']} ({mesh}), {report['tokens_per_step']:,} tokens "
        f"a step, compiled in {report['compile_seconds']} s",
        "",
        "memory of a chip, GiB",
        *(f"  {name:32}{size:9.2f}" for name, size in state.items() if size),
        f"  {'batch and the rest of the state':32}{max(other, 0):9.2f}",
        f"  {'activations and temporaries':32}{memory['temporaries']:9.2f}",
        *([f"  {'on the host':32}{memory['host']:9.2f}"] if memory["host"] else []),
        f"  {'peak':32}{peak:9.2f} of {memory['device has']} ({peak / memory['device has']:.0%})",
        "",
        "collectives of a step, sent by a chip",
        *(
            f"  {t['axes'] + ' ' + t['kind']:32}{t['count']:7,} × {t['bytes'] / 1e9:9.2f} GB "
            f"{t['seconds']:8.3f} s {t['network']}"
            for t in report["traffic"]
            if t["bytes"] > 1e6
        ),
        "",
        "seconds of a step, predicted",
        f"  {'instructions':32}{seconds['compute']:9.3f}",
        f"  {'Pallas kernels':32}{seconds['kernels']:9.3f}   "
        + (", ".join(f"{n} × {t}" for n, t in report["kernels"].items()) or "none"),
        f"  {'links within a slice':32}{seconds['ici']:9.3f}",
        f"  {'network between slices':32}{seconds['dcn']:9.3f}",
        *(
            f"  {name + ', a rollout':32}{program['predicted_step_seconds']:9.3f}   once in "
            f"{report['steps_per_rollout']} steps"
            for name, program in report.get("programs", {}).items()
            if name != "step"
        ),
        f"  {'all at once':32}{report['predicted_step_seconds']:9.3f}   "
        f"one after another {report['serial_step_seconds']:.3f}",
        "",
        f"MFU {report['predicted_mfu']:.1%} (at most {report['mfu_bound']:.1%} if links took no "
        f"time), {report['tokens_per_second_per_chip']:,.0f} tokens/s a chip",
    ]
    for shape in report["whole_parameter_gathers"]:
        lines.append(f"gathers the weights of all layers at once: {shape}")
    return "\n".join(lines)


def show_too_large(report: dict) -> str:
    lines = [f"error: {report['error']}"]
    if report.get("largest_buffers_gib"):
        lines += ["the largest buffers, GiB, and the arrays that share each:"]
        lines += [f"  {size:8.2f}  {a[:100]}" for size, a in report["largest_buffers_gib"]]
    return "\n".join(lines)


def run_report(config: RunConfig, mesh: Mesh, vocab_size: int, hlo: str = "") -> dict[str, Any]:
    """`stage_report` of a run's settings, or the reason why it does not fit.

    Args:
      hlo: a file for the HLO of the programs.

    Raises:
      ValueError: as in a run.
    """
    from tpu import chips
    from tpu.fit import compile

    try:
        programs = compile.compile_programs(config, mesh, vocab_size)
    except compile.DoesNotFit as e:
        return {
            "fits": False,
            "error": str(e),
            "peak_bytes_per_chip": e.needed and int(e.needed * GIB),
            "hbm_bytes_per_chip": chips.HBM_GIB[mesh.devices.flat[0].device_kind] * GIB,
            "largest_buffers_gib": e.largest,
        }
    if hlo:
        Path(hlo).write_text("\n".join(step.text for step in programs.values()))
    return stage_report(programs, mesh, config)


def of_slice(
    recipe: Any,
    topology: str,
    slices: int,
    vocab_size: int,
    sweep: bool = False,
    hlo: str = "",
    typed: Collection[str] = (),
) -> dict[str, Any]:
    """The report of a recipe on a slice; with ramps that of the last batches, and the costs of
    every level.

    Args:
      recipe: a ConfigDict. topology, slices: see `chips.topology`.
      vocab_size: of the tokenizer, which is not read.
      sweep: search for the fastest settings (tpu/fit/sweep.py), and print each that is tried; the
        report is then that of the fastest, with its `settings` and the `sweep`'s table.
      hlo: a file for the optimized HLO. typed: settings that a sweep leaves as they are.

    Raises:
      ValueError: there is no such slice, or a run would not start.
    """
    import jax

    from model import sharding
    from tpu import chips
    from tpu.fit import abstract, rules
    from tpu.fit.levels import with_levels
    from tpu.fit.sweep import Sweep, with_settings
    from train.config.run import build

    devices: Any = chips.topology(topology, slices).devices

    def compile_one(config):
        return run_report(config, sharding.make_mesh(config.mesh, devices), vocab_size, hlo)

    def shape(config):
        return dict(zip(sharding.MESH_AXES, config.mesh.shape(len(devices)), strict=True))

    def by_rule(recipe):
        config = build(recipe)
        run = abstract.assemble(config, rules.abstract_mesh(shape(config)), vocab_size)
        model: Any = config.model  # its class is created at run time (train/config/model.py)
        return rules.peak_gib(run, shape(config), config.accumulate, model.remat)

    def compile_all(recipe, report):
        config = build(recipe)
        shards = sharding.batch_shards(sharding.make_mesh(config.mesh, devices))
        return with_levels(report, config, shards, compile_one)

    caches = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program leaves no dump
    try:
        if not sweep:
            return compile_all(recipe, compile_one(build(recipe)))
        sized = copy.deepcopy(recipe)
        sized.mesh.update(shape(build(recipe)))
        if not build(recipe).model.build(vocab_size).num_experts:
            typed = {*typed, "mesh.expert"}
        search = Sweep(
            lambda recipe: compile_one(build(recipe)),
            by_rule,
            chips.HBM_GIB[devices[0].device_kind],
            typed,
            functools.partial(print, flush=True),
        )
        best = search.run(sized)
        print("\n".join(search.summary(best)))
        report = compile_all(with_settings(sized, best["settings"]), best)
        return report | {"sweep": search.table()}
    finally:
        jax.config.update("jax_enable_compilation_cache", caches)
