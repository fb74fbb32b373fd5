"""Compiling a recipe for a TPU slice, where libtpu is installed: pip install 'jax[tpu]'."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from configs import ppo, pretrain
from model.sharding import make_mesh
from tpu import compile, hlo
from train.config import ConfigError, build

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
    command = [sys.executable, "-m", "tpu.compile", *SMALL, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_the_report_of_a_step_for_the_devices_here():
    """The same path without libtpu: a tiny recipe, compiled for the eight virtual devices."""
    recipe = pretrain.get_config("smoke")
    recipe.mesh.data, recipe.mesh.fsdp = 1, 8
    config = build(recipe)
    mesh = make_mesh(config.mesh)
    step = compile.compile_step(config, mesh, vocab_size=300)
    assert step.num_layers == 2 and step.tokens == config.data.batch_size * config.data.length
    facts = compile.report(step, mesh)
    assert facts["mesh"] == {"fsdp": 8} and facts["whole_parameter_gathers"] == []
    # Seven matrices a layer, forward and backward, at least.
    assert facts["collectives"]["all-gather"]["count"] >= 7 * 2
    assert "8 × cpu (fsdp 8)" in compile.show(facts) and "kernels: none" in compile.show(facts)
    # What the compiler dumped is the program that it returned.
    assert hlo.read(step.text) == hlo.read(step.compiled.as_text())


def test_stages_that_sample_are_refused():
    recipe = ppo.get_config()
    with pytest.raises(ConfigError, match="only train steps are compiled here"):
        compile.compile_step(build(recipe), make_mesh(build(recipe).mesh), 300)


def test_of_a_dump_the_text_with_cycles_is_read(tmp_path):
    names = ("before_optimizations", "after_optimizations", "after_optimizations_after_buffer")
    for name in names:
        (tmp_path / f"module_0000.jit_train_step.{name}.txt").write_text(name)
    assert compile.dumped(tmp_path) == "after_optimizations"
    (tmp_path / "module_0000.jit_train_step.after_codegen.txt").write_text("with cycles")
    assert compile.dumped(tmp_path) == "with cycles"


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("mesh", [dict(fsdp=4), dict(fsdp=2, sequence=2)], ids=str)
def test_two_layers_compile_for_v5e(tmp_path, mesh):
    """The splash kernel runs in every layer; weights are gathered a layer at a time."""
    out = tmp_path / "report.json"
    axes = [f"--config.mesh.{name}={size}" for name, size in mesh.items()]
    done = compile_for(*axes, f"--json={out}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    facts = json.loads(out.read_text())
    assert facts["device"] == "TPU v5 lite" and facts["devices"] == 4
    assert facts["whole_parameter_gathers"] == []
    runs = {name: n for name, n in facts["kernels"].items() if "splash" in name}
    assert len(runs) == 3 and all(n >= 2 for n in runs.values()), facts["kernels"]
    memory = facts["memory_gib"]
    assert 0 < memory["state and batch"] < memory["peak"] < memory["device has"]
    assert facts["collectives"]["all-gather"]["count"] >= 7 * 2


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_says_so():
    done = compile_for(
        "--config.mesh.fsdp=4", "--config.data.batch_size=8192", "--config.model.remat=none"
    )
    assert done.returncode == 1
    assert "out of memory" in done.stderr and "Raise --config.mesh.fsdp" in done.stderr
