"""The report of `tpu.fit`: memory, traffic and time of a recipe's programs on a TPU slice."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from absl import flags

from train import cli
from train.runtime import strict_json

GIB = 2**30


def facts(step, mesh, config) -> dict:
    """What is known of one program (a `compile.Step`), as one JSON-able dict."""
    from model.weights import flops_per_token
    from tpu import chips
    from tpu.fit import compile, cost, hlo
    from train.runtime.flops import row_length

    kind, model = mesh.devices.flat[0].device_kind, step.model
    length = row_length(config)
    pairs = flops_per_token(model, length) - flops_per_token(model, 0)
    whole = 12.0 * model.num_layers * model.num_heads * model.head_dim * length
    spent = cost.estimate(hlo.read(step.text), mesh, pairs / whole)
    by_axis = {}
    for t in spent.traffic:
        by_axis[t.axes] = by_axis.get(t.axes, 0.0) + t.bytes
    memory = step.compiled.memory_analysis()
    return {
        "fits": True,
        **compile.report(step, mesh),
        "peak_bytes_per_chip": memory.peak_memory_in_bytes,
        "hbm_bytes_per_chip": chips.HBM_GIB[kind] * GIB,
        "state_gib": {
            "parameters": _gib(step.state.trainable),
            "optimizer state": _gib(step.state.opt_state),
            "frozen weights": _gib(step.frozen),
        },
        "predicted_step_seconds": spent.step,
        "serial_step_seconds": spent.serial,
        "seconds": {
            "compute": spent.compute,
            "kernels": spent.kernels,
            "ici": spent.ici,
            "dcn": spent.dcn,
        },
        "collective_bytes": by_axis,
        "traffic": [t._asdict() for t in spent.traffic],
    } | _speed(step, mesh, spent.step, spent.compute + spent.kernels)


def _speed(step, mesh, seconds: float, busy: float) -> dict:
    from tpu import chips

    flops = step.flops_per_token * step.tokens / mesh.size
    peak = chips.PEAK_FLOPS[mesh.devices.flat[0].device_kind]
    return {
        "flops_per_step_per_chip": flops,
        "mfu_bound": flops / peak / busy,
        "predicted_mfu": flops / peak / seconds,
        "tokens_per_second_per_chip": step.tokens / mesh.size / seconds,
    }


def together(programs: dict, mesh, config) -> dict:
    """The report of all programs of a stage: the train step's, with the largest peak of any beside
    everything that stays on a chip, and a step's share of a rollout in its seconds.

    Args:
      programs: {name: `compile.Step`}, `step` first.
    """
    reports = {name: facts(step, step.mesh, config) for name, step in programs.items()}
    first = reports["step"]
    if len(reports) == 1:
        return first
    held = sum(first["state_gib"].values()) * GIB
    peak = first["peak_bytes_per_chip"]
    for name, r in reports.items():
        # What a rollout reads is among what is held, but for weights resharded for decoding.
        own = programs[name].mesh == mesh
        shared = r["memory_gib"]["state and batch"] * GIB if own else 0
        if name != "step":
            peak = max(peak, held + r["peak_bytes_per_chip"] - shared)
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


def _gib(tree) -> float:
    """GiB that one device holds of a tree of `jax.ShapeDtypeStruct` with shardings."""
    import jax
    import numpy as np

    shards = ((x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree))
    return sum(float(np.prod(shape)) * size for shape, size in shards) / GIB


def show(report: dict) -> str:
    """The report as people read it."""
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
        "collectives of a step, what a chip sends",
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
        f"MFU {report['predicted_mfu']:.1%} (at most {report['mfu_bound']:.1%} were links free), "
        f"{report['tokens_per_second_per_chip']:,.0f} tokens/s a chip",
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


def fit(recipe, mesh_of, vocab_size: int, hlo: str = "") -> dict:
    """The report of a recipe: `facts`, or why it does not fit.

    Args:
      mesh_of: mesh settings -> mesh. hlo: a file for the program's text.

    Raises:
      ValueError: what a run would raise.
    """
    from tpu import chips
    from tpu.fit import compile
    from train.config.run import build

    config = build(recipe)
    mesh = mesh_of(config.mesh)
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
    return together(programs, mesh, config)


def main(argv):
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose metadata to ask for
    import jax

    from model import sharding
    from tpu import chips
    from tpu.fit.sweep import sweep

    jax.config.update("jax_enable_compilation_cache", False)  # a cached program leaves no dump
    f = flags.FLAGS
    if f.sweep and f.hlo:
        cli.fail("--hlo writes one program, and --sweep compiles many; give one of them")

    def one(recipe, hlo=""):
        return fit(recipe, lambda m: sharding.make_mesh(m, devices), f.vocab_size, hlo)

    try:
        devices = chips.topology(f.topology, f.slices).devices
        if f.sweep:
            say = functools.partial(print, flush=True)
            report = sweep(cli.config(), f.sweep, one, say)
            settings = " ".join(f"{k} {v}" for k, v in report["settings"].items())
            print(f"\nthe best of these: {settings}")
        else:
            report = one(cli.config(), f.hlo)
    except cli.EXPECTED as e:
        cli.fail(str(e))
    if report["fits"]:
        print(show(report))
    else:
        print(show_too_large(report), file=sys.stderr)
    if f.json:
        Path(f.json).write_text(strict_json.dumps(report, indent=1))
    if not report["fits"] or report["whole_parameter_gathers"]:
        raise SystemExit(1)
