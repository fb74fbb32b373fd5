"""The scale of a reward model: the gain and bias that give the scores of a policy's answers mean 0
and standard deviation 1 (Ziegler et al. 2019, arXiv:1909.08593), kept beside its weights.

    python -m train.normalize --config=configs/ppo.py --workdir=runs/reward \\
        --config.init_from.policy=runs/sft --config.data.source=prompts.jsonl

The recipe is that of the ppo or grpo stage to come: its prompts and its sampler; the workdir is the
reward model's. Runs that start from it then find `normalizer.json`, and do not take the scale of
their own first rollout: their rewards can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import app, flags

from train import cli
from train.runtime import strict_json


def run(config, workdir, answers: int, open_data=None) -> dict:
    """Samples `answers` of the policy to training prompts, at most one each, and writes
    `normalizer.json` into the reward model's workdir.

    Args:
      config: a recipe of stage ppo or grpo. open_data: as in train/loop.py.

    Returns:
      The file's content: `gain`, `bias`, what they were computed of (`mean`, `std` with n - 1,
      `answers`), the `policy` that gave the answers, and the `fingerprint` of the reward model.

    Raises:
      ConfigError: as such a stage would, or there are no two scores that differ.
      RewardError: a score is not finite.
    """
    import jax
    from etils import epath

    from data.loader import heldout_batches
    from model import sharding
    from ranges import ConfigError
    from train import assemble
    from train.config.run import build
    from train.objectives import registry
    from train.rl import advantages as adv
    from train.rl.sampler import Sampler
    from train.runtime import checkpoint

    config, workdir = build(config), epath.Path(workdir)
    if config.stage not in ("ppo", "grpo"):
        raise ConfigError(f"stage={config.stage!r}; a reward is normalised for stage ppo or grpo")
    origins = {**config.init_from, "reward": str(workdir)}
    config = dataclasses.replace(config, init_from=origins)
    mesh, size = sharding.make_mesh(config.mesh), config.rl.rollout_batch
    with jax.set_mesh(mesh):
        row = registry.check(config, mesh)
        ctx = assemble.open_context(config, row, workdir, mesh, None, open_data)
        params = {}
        for role in ("policy", "reward"):
            abstract = checkpoint.abstract_params(role, ctx.models[role], mesh)
            params[role] = checkpoint.load_params(origins[role], role, abstract)
        sampler, key, scores = Sampler(ctx), jax.random.key(config.seed), []
        count = min(answers, len(ctx.data.train["tokens"]))
        batches = heldout_batches(ctx.data.train, size, sharding.local_rows(mesh, size))
        for number, prompts in zip(range(-(-count // size)), batches, strict=False):
            placed = sharding.put_batch(prompts, mesh)
            batch = sampler.sample(params["policy"], placed, key, np.int32(number * size))
            found = sampler.score(params, batch)
            sampler.check({"model": found}, batch)
            found = jax.device_put(found, sharding.replicated(mesh))
            scores.append(jax.device_get(found))
        scores = np.concatenate([*scores, []])[:count].astype(np.float64)
        scores = scores[np.isfinite(scores)]
        if len(scores) < 2 or not adv.spread(scores, True):
            raise ConfigError(
                f"{workdir} scores all of {len(scores)} answers alike, which has no scale; give "
                "more prompts, or train the reward model first"
            )
        mean, std = float(scores.mean()), float(scores.std(ddof=1))
        facts = {
            "gain": 1 / std,
            "bias": -mean / std,
            "mean": mean,
            "std": std,
            "answers": len(scores),
            "policy": config.init_from["policy"],
            "fingerprint": checkpoint.identity(workdir, "reward", params["reward"]),
        }
    if jax.process_index() == 0:
        (workdir / "normalizer.json").write_text(strict_json.dumps(facts, indent=2) + "\n")
    return facts


def main(argv):
    del argv
    cli.start()
    from train.runtime.metrics import console

    workdir = flags.FLAGS.workdir
    facts = run(cli.config(), workdir, flags.FLAGS.answers)
    console.print(
        f"{facts['answers']} answers of {facts['policy']} score {facts['mean']:.3f} ± "
        f"{facts['std']:.3f}: {workdir}/normalizer.json"
    )


if __name__ == "__main__":
    cli.define_flags()
    flags.DEFINE_integer("answers", 512, "How many answers the scale is taken of.", 2, 2**24)
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
