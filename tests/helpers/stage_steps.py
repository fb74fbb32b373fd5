"""The first steps of a stage on a mesh, for tests that compare meshes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from stage_fixtures import ORIGINS, Stages, recipe

from model import sharding
from train.assembly.run import init_state, setup
from train.config import run as configs
from train.step import make_train_step

STAGES = tuple(ORIGINS)
MESHES = {
    "one": dict(data=1),
    "data": dict(data=8),
    "fsdp": dict(data=1, fsdp=8),
    "tensor": dict(data=4, tensor=2),
    "all": dict(data=2, fsdp=2, tensor=2),
    "sequence": dict(data=1, fsdp=2, sequence=4),
}


def make_mesh(name: str) -> jax.sharding.Mesh:
    config = sharding.MeshConfig(**MESHES[name])
    return sharding.make_mesh(config, jax.devices()[: 1 if name == "one" else 8])


def stage_recipe(stage: str, directory: Stages) -> ml_collections.ConfigDict:
    roles = {role: directory / origin for role, origin in ORIGINS[stage].items()}
    config = recipe(stage, directory, **roles)
    return config


_saved_experience = {}


def five_steps(
    stage: str,
    mesh_name: str,
    directory: Stages,
    tmp_path: Path,
    accumulate: int = 1,
    change: Callable[[ml_collections.ConfigDict], None] | None = None,
) -> tuple[Any, np.ndarray]:
    """(gradients of the first batch, losses of five steps) of a stage on a mesh.

    `change` alters the recipe.

    PPO's and GRPO's are taken on one saved experience, the one-device run's first rollout.
    """
    config = stage_recipe(stage, directory)
    config.accumulate = accumulate
    if change:
        change(config)
    mesh = make_mesh(mesh_name)
    with jax.set_mesh(mesh):
        run = setup(configs.build(config), tmp_path, mesh)
        state = init_state(run)
        source = state.source
        rolls = stage in ("ppo", "grpo")
        if rolls:
            if mesh_name == "one" and stage not in _saved_experience:
                _, source, _ = run.stage.source.next(state, run.frozen, source, 0)
                source = source | {"minibatch": np.asarray(0, np.int32)}
                _saved_experience[stage] = jax.device_get(source)
            source = dict(_saved_experience[stage])
            source["experience"] = sharding.put_batch(source["experience"], mesh)

        def step(state, frozen, batch):
            given = []

            def update(grads, *args, **settings):
                given.append(grads)
                return run.tx.update(grads, *args, **settings)

            optimizer = optax.GradientTransformationExtraArgs(run.tx.init, update)
            step_fn = make_train_step(run.stage, optimizer, accumulate)
            state, metrics = step_fn(state, frozen, batch)
            return state, metrics["loss"], given[0]

        step, losses = jax.jit(step), []
        for k in range(5):
            if rolls and k == 4:
                break  # the experience's four minibatches are used up
            batch, source, _ = run.stage.source.next(state, run.frozen, source, k)
            state, loss, grads = step(state._replace(source=()), run.frozen, batch)
            if k == 0:
                first = jax.device_get(grads)
            losses.append(float(loss))
        return first, np.array(losses)


def assert_same(got: tuple[Any, np.ndarray], want: tuple[Any, np.ndarray]) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(got[0])[0], jax.tree.leaves(want[0]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)
