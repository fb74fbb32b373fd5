"""Whole runs of PPO and GRPO: killed and resumed, on one device and on eight; long ones."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo
from local_runs import records
from tiny_ppo import PER_ROLLOUT

from benchmarks.ppo.steady import watched
from model import sharding
from train import loop
from train.assembly.run import init_state, setup
from train.config import run as configs
from train.step import accumulate_gradients

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ppo")
    tiny_ppo.write_origins(directory)
    return directory


def killed_run(directory, stage, devices, workdir, when):
    """The exit code of tests/helpers/killed_run.py, which compiles only what no run before did."""
    helpers = ROOT / "tests" / "helpers"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    env = os.environ | {
        "XLA_FLAGS": flags,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{helpers}",
        "JAX_COMPILATION_CACHE_DIR": str(directory / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    mesh = dict(data=1) if devices == 1 else dict(data=2, fsdp=2, tensor=2)
    arguments = [stage, json.dumps(mesh), directory, workdir, when]
    done = subprocess.run(
        [sys.executable, helpers / "killed_run.py", *map(str, arguments)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


def states(workdir):
    lines = (workdir / "states.txt").read_text().splitlines()
    return [(int(step), digest) for step, digest in map(str.split, lines)]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_killed_at_any_step_ends_the_same(directory, tmp_path, stage, devices):
    """Killed between two minibatches of an epoch, between epochs, in front of a rollout and behind
    it: every state and every metric that follows is the uninterrupted run's, bit for bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert killed_run(directory, stage, devices, whole, "never") == 0
    expected = dict(states(whole))
    assert len(expected) == 2 * PER_ROLLOUT
    for when in ("before 2", "after 3", "before 4", "after 4", "before 7"):
        assert killed_run(directory, stage, devices, killed, when) == -signal.SIGKILL
    assert killed_run(directory, stage, devices, killed, "never") == 0
    assert dict(states(killed)) == expected
    assert all(expected[step] == digest for step, digest in states(killed))
    lines = records(whole)
    assert records(killed) == lines
    train = [r for r in lines if r["kind"] == "train"]
    assert len(train) == 2 * PER_ROLLOUT and max(r["stopped"] for r in train) > 0


MESHES = {
    "data": dict(data=8),
    "fsdp": dict(data=1, fsdp=8),
    "tensor": dict(data=4, tensor=2),
    "all": dict(data=2, fsdp=2, tensor=2),
}


@jax.jit
def moved(params):
    """Weights away from those of the rollout, heads of zeros too."""

    def move(x):
        return x + 0.02 * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

    return jax.tree.map(move, params)


def loss_and_gradients(directory, workdir, stage, saved, accumulate=1, **mesh):
    """(loss, gradients) of the first minibatch of `saved` experience, and of a new one without."""
    config = tiny_ppo.recipe(stage, directory)
    config.accumulate = accumulate
    config.rl.kl_loss_coef = 0.05
    config.rl.pretrain_coef = 0.1
    devices = jax.devices()[: np.prod([*mesh.values()])]
    mesh = sharding.make_mesh(sharding.MeshConfig(**mesh), devices)
    with jax.set_mesh(mesh):
        run = setup(configs.build(config), workdir, mesh, None, tiny_ppo.OPEN_DATA)
        state = init_state(run)
        source = run.stage.source
        if saved is None:
            saved = jax.device_get(source.next(state, run.frozen, state.source, 0)[1])
        s = saved | {
            "minibatch": np.int32(0),
            "experience": sharding.put_batch(saved["experience"], mesh),
        }
        batch, _, _ = source.next(state, run.frozen, s, 0)
        gradients = jax.jit(partial(accumulate_gradients, run.stage, count=accumulate))
        loss, grads, _ = gradients(moved(state.trainable), run.frozen, batch)
        return saved, float(loss), jax.device_get(grads)


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_one_experience_has_one_loss_and_one_gradient(directory, tmp_path, stage):
    """To 1e-5 of their size, on one device, in microbatches, and on eight devices."""
    saved, loss, grads = loss_and_gradients(directory, tmp_path, stage, None, data=1)
    by_setup = {"microbatches": loss_and_gradients(directory, tmp_path, stage, saved, 4, data=1)}
    for name, mesh in MESHES.items():
        by_setup[name] = loss_and_gradients(directory, tmp_path, stage, saved, **mesh)
    for name, (_, other, others) in by_setup.items():
        np.testing.assert_allclose(other, loss, rtol=1e-5, err_msg=name)
        for (path, a), b in zip(
            jax.tree_util.tree_flatten_with_path(grads)[0], jax.tree.leaves(others), strict=True
        ):
            off = np.linalg.norm(b - a) / np.linalg.norm(a)
            assert off < 1e-5, (name, jax.tree_util.keystr(path), off)


def run_on(directory, workdir, devices, rollouts, rate, **mesh):
    config = tiny_ppo.recipe("ppo", directory, rollouts)
    config.rl.temperature = 1.0
    config.optimizer.peak_lr, config.value_optimizer.peak_lr = rate, 3 * rate
    mesh = sharding.make_mesh(sharding.MeshConfig(**mesh), jax.devices()[:devices])
    loop.run(config, workdir, mesh, open_data=tiny_ppo.OPEN_DATA)
    return [r for r in records(workdir) if "rollout/kl" in r]


def test_ten_live_updates_are_alike_on_one_device_and_on_eight(directory, tmp_path):
    """Each rollout is sampled by its own policy: a draw that rounding changes shows here, as one of
    the 32 answers in the mean. At ten times the learning rate one did, in the tenth rollout."""
    one_device = run_on(directory, tmp_path / "one", 1, 10, 1e-3)
    assert len(one_device) == 10
    for name in ("fsdp", "all"):
        eight_devices = run_on(directory, tmp_path / name, 8, 10, 1e-3, **MESHES[name])
        for metric in ("rollout/score", "rollout/kl"):
            a, b = (np.array([r[metric] for r in run]) for run in (one_device, eight_devices))
            np.testing.assert_allclose(b, a, rtol=0.02, atol=1e-4, err_msg=f"{name} {metric}")


def test_a_hundred_updates_compile_nothing_new_and_leave_nothing(directory, tmp_path):
    with watched() as seen:
        run_on(directory, tmp_path / "run", 1, 100, 1e-2)
    assert len(seen) == 100
    assert seen[0]["compiled"] > 0 and not any(record["compiled"] for record in seen[2:])
    for what in ("arrays", "array_bytes"):
        assert len({record[what] for record in seen[2:]}) == 1, what
    assert seen[-1]["resident_bytes"] - seen[9]["resident_bytes"] < 20e6
