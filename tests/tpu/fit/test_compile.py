"""Compiling a recipe for a TPU slice, where libtpu is installed: pip install 'jax[tpu]'."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from configs import ppo, pretrain
from model.sharding import MeshConfig, decoding_mesh, make_mesh
from tpu import chips
from tpu.fit import abstract, compile, hlo, rules
from tpu.fit import report as fit_report
from train.assembly import averages
from train.assembly import partition as parts
from train.checkpoints import fingerprints
from train.config.run import build
from train.objectives.base import Context
from train.step import make_train_step

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install 'jax[tpu]')",
)

SMALL = [
    "--config=configs/pretrain.py:size=8b",
    "--topology=v5e:2x2",
    "--vocab_size=1024",
    "--config.model.dtype=bfloat16",
    "--config.model.num_layers=2",
    "--config.model.embed_dim=2048",
    "--config.model.mlp_dim=4096",
    "--config.model.num_heads=4",
    "--config.model.num_kv_heads=2",
    "--config.data.length=1024",  # no activation has the shape of both layers' weights then
    "--config.data.batch_size=4",
    "--config.mesh.data=1",
]


def compile_for(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    command = [sys.executable, "-m", "tpu.fit", *SMALL, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_a_step_of_seventy_billion_parameters_can_be_traced(capsys):
    """With every statistic, averages and checksums: neither the number of values of an array nor
    that of a group of weights is an int32."""
    recipe = pretrain.get_config("size=llama3.1-70b")
    recipe.update(accumulate=2, statistics="groups,layers,noise")
    recipe.optimizer.update(name="muon", ema=0.999)
    recipe.data.length, recipe.guard.spike = 64, 5.0
    mesh = rules.abstract_mesh({"data": 1, "fsdp": 4, "expert": 1, "sequence": 1, "tensor": 1})
    run = abstract.assemble(build(recipe), mesh, 128_256)
    batch, data, tokenizer = compile.abstract_batch(run.config, run.objective.schema, mesh)
    context = Context(run.config, run.models, tokenizer, data, mesh)
    stage = parts.joined(run.objective.build(context), run.parts)
    assert "repeats" not in capsys.readouterr().out  # of the artificial rows
    state = run.state._replace(source=(), losses=jnp.zeros(64))
    step = make_train_step(stage, run.tx, 2, 5.0, run.config.statistics)
    with jax.sharding.use_abstract_mesh(mesh):
        _, metrics = jax.eval_shape(step, state, run.frozen, batch)
    assert {"weight_rms/hidden", "update_rms/layer", "noise_trace"} <= metrics.keys()
    rates = {"policy": jnp.float32(0.1)}
    jax.eval_shape(averages.update, state.ema, state.trainable, rates, jnp.int32(3))
    jax.eval_shape(fingerprints.checksums, state.trainable)


def test_the_report_of_a_step_for_the_devices_here():
    """The same path without libtpu: a tiny recipe, compiled for the eight virtual devices."""
    recipe = pretrain.get_config("smoke")
    recipe.mesh.data, recipe.mesh.fsdp = 1, 8
    config = build(recipe)
    mesh = make_mesh(config.mesh)
    step = compile.compile_programs(config, mesh, vocab_size=300)["step"]
    assert step.model.num_layers == 2 and step.tokens == config.data.batch_size * config.data.length
    summary = compile.summary(step, mesh)
    assert summary["mesh"] == {"fsdp": 8} and summary["whole_parameter_gathers"] == []
    # Seven matrices a layer, forward and backward, at least.
    assert summary["collectives"]["all-gather"]["count"] >= 7 * 2
    assert summary["kernels"] == {}
    # What the compiler dumped is the program that it returned.
    assert hlo.read(step.text) == hlo.read(step.compiled.as_text())


def test_what_a_stage_that_samples_runs():
    """PPO of a tiny model on the eight virtual devices: four programs, of the shapes of a run."""
    recipe = ppo.get_config()
    recipe.model.size = "tiny"
    recipe.mesh.data, recipe.mesh.fsdp = 1, 8
    recipe.init_from = {"reward": "runs/reward"}
    recipe.data.batch_size = recipe.rl.rollout_batch = recipe.rl.eval_prompts = 8
    recipe.rl.prompt_length, recipe.rl.response_length = 8, 8
    recipe.rl.decode_tensor = 2
    recipe.lora.rank = 2
    config = build(recipe)
    programs = compile.compile_programs(config, make_mesh(config.mesh), 300)
    assert list(programs) == ["step", "sample", "score", "experience"]
    step = programs["step"]
    assert step.tokens == 8 * 16 and step.frozen.keys() >= {"reference", "reward"}
    assert step.state.trainable.keys() == {"policy", "value"}
    assert all("ENTRY" in program.text for program in programs.values())
    assert dict(programs["sample"].mesh.shape)["tensor"] == 2


def test_programs_of_a_stage_are_one_report(monkeypatch):
    """Peak: of each program beside all that is held, of which it may read a part; weights that
    were resharded for decoding stand beside the held ones."""
    train_mesh, sampling_mesh = make_mesh(MeshConfig()), decoding_mesh(make_mesh(MeshConfig()), 2)

    def program(peak, arguments, seconds, mesh=train_mesh, gathers=()):
        report = {
            "peak_bytes_per_chip": peak * fit_report.GIB,
            "memory_gib": {"state and batch": arguments},
            "state_gib": {"parameters": 2.0, "frozen weights": 3.0},
            "predicted_step_seconds": seconds,
            "serial_step_seconds": 2 * seconds,
            "kernels": {},
            "collective_bytes": {},
            "compile_seconds": 1.0,
            "whole_parameter_gathers": list(gathers),
            "seconds": {"compute": seconds, "kernels": 0.0},
        }
        return SimpleNamespace(mesh=mesh, report=report, flops_per_token=1.0, tokens=64)

    monkeypatch.setattr(fit_report, "program_report", lambda step, mesh, config: step.report)
    monkeypatch.setitem(chips.PEAK_FLOPS, "cpu", 1.0)
    recipe = ppo.get_config()
    recipe.init_from = {"reward": "runs/reward"}  # 256 answers twice in minibatches of 64
    programs = {
        "step": program(7, 5, 1.0),
        "sample": program(4, 3, 16.0, sampling_mesh),
        "score": program(4, 3, 8.0, gathers=["bf16[2, 8]"]),
    }
    report = fit_report.stage_report(programs, train_mesh, build(recipe))
    assert report["peak_bytes_per_chip"] == (5 + 4) * fit_report.GIB
    assert report["steps_per_rollout"] == 8
    assert report["predicted_step_seconds"] == 1 + (16 + 8) / 8
    assert report["whole_parameter_gathers"] == ["bf16[2, 8]"]
    programs["sample"] = program(4, 3, 16.0)
    report = fit_report.stage_report(programs, train_mesh, build(recipe))
    assert report["peak_bytes_per_chip"] == 7 * fit_report.GIB


def test_of_a_dump_the_text_with_cycles_is_read(tmp_path):
    names = ("before_optimizations", "after_optimizations", "after_optimizations_after_buffer")
    for name in names:
        (tmp_path / f"module_0000.jit_train_step.{name}.txt").write_text(name)
    assert compile.dumped(tmp_path) == "after_optimizations"
    (tmp_path / "module_0000.jit_train_step.after_codegen.txt").write_text("with cycles")
    assert compile.dumped(tmp_path) == "with cycles"


def test_out_of_memory_in_words_that_are_not_known(tmp_path):
    mesh = make_mesh(build(pretrain.get_config("smoke")).mesh)
    error = compile._too_large("RESOURCE_EXHAUSTED: no room left\nmore", mesh, tmp_path)
    assert error.needed is None and "(RESOURCE_EXHAUSTED: no room left)" in str(error)
    known = compile._too_large(
        "HLO temporaries (448.52G) exceeds available HBM (15.75G)", mesh, tmp_path
    )
    assert known.needed == 448.52 and "448.52G of the 15.75G" in str(known)


def test_a_sweep_writes_no_program():
    done = compile_for("--sweep", "--hlo=program.txt")
    assert done.returncode == 1 and "--sweep compiles many" in done.stderr


def test_the_peak_of_a_device_leaves_out_what_the_host_holds():
    sizes = dict(argument_size_in_bytes=3, temp_size_in_bytes=20, peak_memory_in_bytes=17)
    assert compile.peak_bytes(SimpleNamespace(**sizes, host_temp_size_in_bytes=0)) == 17
    assert compile.peak_bytes(SimpleNamespace(**sizes, host_temp_size_in_bytes=14)) == 23


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("mesh", [dict(fsdp=4), dict(fsdp=2, sequence=2)], ids=str)
def test_two_layers_compile_for_v5e(tmp_path, mesh):
    """The splash kernel runs in every layer; weights are gathered a layer at a time."""
    out = tmp_path / "report.json"
    axes = [f"--config.mesh.{name}={size}" for name, size in mesh.items()]
    done = compile_for(*axes, f"--json={out}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    summary = json.loads(out.read_text())
    assert summary["device"] == "TPU v5 lite" and summary["devices"] == 4
    assert summary["whole_parameter_gathers"] == []
    runs = {name: n for name, n in summary["kernels"].items() if "splash" in name}
    assert len(runs) == 3 and all(n >= 2 for n in runs.values()), summary["kernels"]
    memory = summary["memory_gib"]
    assert 0 < memory["state and batch"] < memory["peak"] < memory["device has"]
    assert summary["collectives"]["all-gather"]["count"] >= 7 * 2


@pytest.mark.slow
@needs_libtpu
def test_two_slices_compile(tmp_path):
    """`data` runs between them, over the network; everything else within one."""
    out = tmp_path / "report.json"
    axes = "--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.data.batch_size=8"
    done = compile_for(*axes, "--slices=2", f"--json={out}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert report["mesh"] == {"data": 2, "fsdp": 4} and report["fits"]
    # The first of its two layers is before the loop.
    backward = {n: times for n, times in report["kernels"].items() if "_dq_" in n or "_dkv_" in n}
    assert set(backward.values()) == {2}, report["kernels"]
    between = [t for t in report["traffic"] if t["network"] == "dcn"]
    assert between and {t["axes"] for t in between} == {"data"}
    assert all(t["axes"] == "fsdp" for t in report["traffic"] if t not in between and t["bytes"])
    seconds = report["seconds"]
    assert seconds["dcn"] > 0 and seconds["ici"] > 0 and seconds["kernels"] > 0
    assert report["predicted_step_seconds"] == pytest.approx(
        max(seconds["compute"] + seconds["kernels"], seconds["ici"], seconds["dcn"])
    )
    assert report["peak_bytes_per_chip"] < report["hbm_bytes_per_chip"] == 16 * 2**30


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_says_so():
    done = compile_for(
        "--config.mesh.fsdp=4", "--config.data.batch_size=8192", "--config.model.remat=none"
    )
    assert done.returncode == 1
    assert "out of memory" in done.stderr and "Raise --config.mesh.fsdp" in done.stderr
    assert "the largest buffers" in done.stderr and "bf16[" in done.stderr
