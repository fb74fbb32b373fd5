"""Row 4: single bits flipped in a checkpoint's policy, optimizer state and source."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from fault_injection.damage import flip_bit, toggle
from fault_injection.lab import STEPS, Lab, Row

from model import sharding
from ranges import ConfigError
from train.assembly.run import setup
from train.checkpoints import verification
from train.config.run import build

ITEMS = {"policy": "policy", "optimizer": "opt_state", "source": "source"}


def flips(lab: Lab, trials: int) -> list[Row]:
    """A bit of an item of PPO's newest checkpoint is flipped, and the whole restored. A flip in a
    byte that no array is read from, as of a manifest, may also leave every array as it was."""
    workdir = lab.trained("ppo")
    checkpoint = workdir / "checkpoints" / str(STEPS)
    spec = importlib.util.spec_from_file_location("recipes", lab.recipes)
    assert spec and spec.loader
    recipes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipes)
    config = build(recipes.get_config("ppo"))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh), _quiet():
        abstract = setup(config, workdir, mesh, None, None).abstract
        items = {**abstract.trainable, "opt_state": abstract.opt_state, "source": abstract.source}
        read = functools.partial(_read, checkpoint, items)
        good = read()
        rows = []
        for name, item in ITEMS.items():
            rows.append(row := Row("4", f"one bit flipped in the {name}"))
            for _ in range(trials):
                path, position = flip_bit(checkpoint / item, lab.rng)
                try:
                    state = read()
                except (verification.Damaged, ConfigError):
                    row.add(True)
                else:
                    unharmed = jax.tree.all(jax.tree.map(_equal, state, good))
                    row.add(unharmed, note=f"bit {position} of {path} went unnoticed")
                finally:
                    toggle(path, position)
    shutil.rmtree(workdir)
    return rows


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops standard error: TensorStore's threads report every read that fails, at length."""
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def _read(checkpoint: Any, items: Any) -> Any:
    path = epath.Path(checkpoint)
    return verification.restore(path, verification.read_meta(path), items)


def _equal(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
