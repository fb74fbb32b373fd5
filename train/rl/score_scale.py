"""The scale of a reward model: gain and bias that normalize its scores of a policy's answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from data.atomic import write_atomically
from data.loader import heldout_batches
from data.pipeline import Data
from data.text.base import Tokenizer
from model import sharding
from ranges import ConfigError
from train.checkpoints import loading
from train.config.run import build
from train.objectives import registry
from train.rl import advantages as adv
from train.rl.offline import open_sampler
from train.runtime import strict_json
from train.terminal.console import console


def run(
    config: Any,
    workdir: epath.PathLike,
    answers: int,
    open_data: Callable[[Tokenizer], Data] | None = None,
) -> dict:
    """Samples `answers` answers of the policy to training prompts, at most one each, and writes
    `normalizer.json` into the reward model's workdir.

    Args:
      config: a recipe of stage ppo or grpo. open_data: as in train/loop.py.

    Returns:
      The file's content: `gain`, `bias`, the statistics they are computed from (`mean`, `std` with
      n - 1, `answers`), the `policy` that answered, and the `fingerprint` of the reward model.

    Raises:
      ConfigError: as in such a stage, or no two scores differ.
      RewardError: a score is not finite.
    """
    config, workdir = build(config), epath.Path(workdir)
    if not registry.find(config).rollouts:
        raise ConfigError(
            f"stage={config.stage!r}; a reward is normalized for a stage with rollouts, as ppo"
        )
    config = dataclasses.replace(config, init_from={**config.init_from, "reward": str(workdir)})
    mesh, size = sharding.make_mesh(config.mesh), config.rl.rollout_batch
    with jax.set_mesh(mesh):
        roles = "policy", "reward"
        sampler, params = open_sampler(config, workdir, mesh, roles, open_data)
        prompts, key, scores = sampler.ctx.data.train, jax.random.key(config.seed), []
        count = min(answers, len(prompts["tokens"]))
        batches = heldout_batches(prompts, size, sharding.local_rows(mesh, size))
        for number, batch in zip(range(-(-count // size)), batches, strict=False):
            placed = sharding.put_batch(batch, mesh)
            batch = sampler.sample(params["policy"], placed, key, np.int32(number * size))
            batch_scores = sampler.score(params, batch)
            sampler.check_scores({"model": batch_scores}, batch)
            scores.append(sampler.fetch(batch_scores))
        scores = np.concatenate([*scores, []])[:count].astype(np.float64)
        scores = scores[np.isfinite(scores)]
        if len(scores) < 2 or not adv.varies(scores, True):
            raise ConfigError(
                f"{workdir} gives all of {len(scores)} answers the same score, so it has no scale; "
                "give more prompts, or train the reward model first"
            )
        mean, std = float(scores.mean()), float(scores.std(ddof=1))
        scale = {
            "gain": 1 / std,
            "bias": -mean / std,
            "mean": mean,
            "std": std,
            "answers": len(scores),
            "policy": config.init_from["policy"],
            "fingerprint": loading.identity(workdir, "reward", params["reward"]),
        }
    path = workdir / "normalizer.json"
    if jax.process_index() == 0:
        write_atomically(path, strict_json.dumps(scale, indent=2) + "\n")
    console.print(
        f"{scale['answers']} answers of {scale['policy']} score {mean:.3f} ± {std:.3f}: {path}"
    )
    return scale
