"""python killed_run.py STAGE MESH DIRECTORY WORKDIR WHEN: a run of tiny_ppo that ends itself.

WHEN is `before K` or `after K`: with SIGKILL before or after the batch of step K, counted from 0, a
rollout that it needs included; or `never`. Every state that is saved is hashed into
WORKDIR/states.txt, a line `step hash` each.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import tiny_ppo
from etils import epath

from train import loop
from train.checkpoints.checkpointer import Checkpointer
from train.rl.rollout import RolloutSource
from train.step import TrainState

MAX_KL = 0.004  # some updates are refused


def state_hash(state: TrainState) -> str:
    """A hash of every bit of the weights, the optimizer's state and the source's."""
    found = hashlib.sha256()
    tree = (state.trainable, state.opt_state, state.source)
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = np.asarray(x)
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode() + x.tobytes())
    return found.hexdigest()


def main(stage: str, mesh: str, directory: str, workdir: str, when: str) -> None:
    workdir = epath.Path(workdir)
    config = tiny_ppo.recipe(stage, Path(directory), rollouts=2)
    config.mesh.update(json.loads(mesh))
    config.checkpoint.every = 1
    config.rl.kl_target = 0.5
    config.rl.kl_horizon = 100
    config.rl.max_kl = MAX_KL
    config.rl.pretrain_coef = 0.1
    next_batch, save = RolloutSource.next, Checkpointer.save

    def die(moment, step):
        if when == f"{moment} {step}":
            os.kill(os.getpid(), signal.SIGKILL)

    def killed_next(self, state, frozen, s, step):
        die("before", step)
        out = next_batch(self, state, frozen, s, step)
        die("after", step)
        return out

    def noted_save(self, state, *args, **kwargs):
        with open(workdir / "states.txt", "a") as f:
            f.write(f"{int(state.step)} {state_hash(state)}\n")
        save(self, state, *args, **kwargs)

    RolloutSource.next, Checkpointer.save = killed_next, noted_save
    loop.run(config, workdir, open_data=tiny_ppo.OPEN_DATA)


if __name__ == "__main__":
    main(*sys.argv[1:])
