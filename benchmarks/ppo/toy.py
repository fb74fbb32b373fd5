"""A PPO race small enough to run anywhere: learn to say token 7.

    python -m benchmarks.ppo.toy [--seed=N] [--stage=grpo]

A random policy of 2 layers, 64 wide, over 32 ids; prompts of 6 random ids, responses of 8; the
score is the count of id 7 in both, over 8. 25 updates of 64 episodes, 4 epochs × 2 minibatches,
learning rate 1e-3, KL coefficient 0.02, λ 0.95. The result is J = score - 0.02·KL after them: a
response-only optimum from a uniform reference is about 0.48; TRL 1.12 reached 0.433.

Prints the scores and KLs (nats a response) of the 25 rollouts and of 256 episodes after the last
update, and the seconds of training, compilation and evaluation included.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import results, turns
from benchmarks.random_models import write_random
from data.pipeline import Data
from data.text.base import Tokenizer
from data.text.builtin import BuiltinTokenizer
from model.config import TransformerConfig
from train import loop
from train.config import run
from train.rl.rewards import Episode
from train.runtime.metrics import quiet_to_file
from train.runtime.records import read_metrics

UPDATES, PROMPT, RESPONSE = 25, 6, 8


# Processor time at each episode that was scored: with one core, the time of a quiet machine.
CLOCK: list[float] = []


def count_sevens(episode: Episode) -> float:
    """The score of an episode (train/rl/rewards.py)."""
    CLOCK.append(time.process_time())
    return (np.sum(episode.prompt_ids == 7) + np.sum(episode.response_ids == 7)) / RESPONSE


def write_policy(workdir: epath.PathLike, seed: int) -> None:
    """Writes a workdir with a random policy over 32 ids: 7 special ones and 25 letters."""
    tokenizer = BuiltinTokenizer("char", b"abcdefghijklmnopqrstuvwxy")
    model = TransformerConfig(
        vocab_size=32, embed_dim=64, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=16,
        mlp_dim=256, vocab_multiple=32,
    )  # fmt: skip
    write_random(workdir, "policy", model, tokenizer, seed)


def random_prompts(seed: int) -> Callable[[Tokenizer | None], Data]:
    """`open_data` of the race: training prompts for every rollout, and 256 held out."""
    rng = np.random.default_rng(seed)

    def rows(n):
        return {
            "tokens": rng.integers(0, 32, (n, PROMPT), dtype=np.int32),
            "mask": np.ones((n, PROMPT), bool),
            "example": np.zeros(n, np.int32),
        }

    return lambda tokenizer: Data(rows(64 * UPDATES), rows(256), [], Counter())


def recipe_of(seed: int, stage: str) -> ml_collections.ConfigDict:
    """The settings of the race; GRPO's has groups of 8."""
    recipe = run.default()
    recipe.stage, recipe.seed = stage, seed
    recipe.steps = UPDATES * 4 * 2
    recipe.data.batch_size = 32
    recipe.model.scan_unroll = 0
    for optimizer in (recipe.optimizer, recipe.value_optimizer):
        optimizer.peak_lr = 1e-3
        optimizer.schedule = "constant"
        optimizer.warmup_steps = 0
        optimizer.b2 = 0.999
        optimizer.weight_decay = 0.0
    recipe.rl.update(
        dict(prompt_length=PROMPT, response_length=RESPONSE, rollout_batch=64, epochs=4,
             kl_coef=0.02, normalize_scores=False, stop_at_eos=False,
             reward_function="benchmarks.ppo.toy:count_sevens", eval_prompts=256)
    )  # fmt: skip
    recipe.ppo.lam = 0.95
    recipe.evaluate.at_start = False
    recipe.evaluate.samples = 0
    recipe.checkpoint.every = 0
    return recipe


def train(directory: epath.PathLike, seed: int, stage: str = "ppo") -> dict:
    """Runs one race from `directory`/policy, in `directory`/ppo.

    Returns:
      `scores`, `kls` (26 each, the last after all updates), `train_seconds`, and of each update
      but the last its `update_seconds` and `processor_seconds`, from rollout to rollout.
    """
    CLOCK.clear()
    quiet_to_file(f"{directory}/log.txt")
    recipe = recipe_of(seed, stage)
    recipe.init_from = {"policy": f"{directory}/policy"}
    with turns.clock() as took:
        loop.run(recipe, f"{directory}/ppo", open_data=random_prompts(seed))
    rollouts = [r for r in read_metrics(f"{directory}/ppo", "train") if "rollout/kl" in r]
    final = read_metrics(f"{directory}/ppo", "eval")[-1]
    return {
        "scores": [r["rollout/score"] for r in rollouts] + [final["score"]],
        "kls": [r["rollout/kl"] for r in rollouts] + [final["kl"]],
        "train_seconds": took.seconds,
        # A record is written after an update's first step: between two lies a whole update.
        "update_seconds": np.diff([r["elapsed_seconds"] for r in rollouts]).tolist(),
        "processor_seconds": np.diff(CLOCK[: 64 * UPDATES : 64]).tolist(),
    }


def race(seed: int, stage: str = "ppo") -> dict:
    """Runs `train` with a new policy."""
    with tempfile.TemporaryDirectory() as directory:
        write_policy(f"{directory}/policy", seed)
        return train(directory, seed, stage)


def main(argv: Sequence[str]) -> None:
    del argv
    result = race(flags.FLAGS.seed, flags.FLAGS.stage)
    score, kl = result["scores"][-1], result["kls"][-1]
    cells = [
        str(flags.FLAGS.seed), f"{result['scores'][0]:.3f} → {score:.3f}", f"{kl:.1f}",
        f"{score - 0.02 * kl:.3f}", f"{result['train_seconds']:.1f}",
    ]  # fmt: skip
    columns = ("seed", "score", "KL", "J = score − 0.02·KL", "seconds")
    results.report(
        results.Result("ppo.toy", [results.Table(columns, [cells])], result, results.given())
    )


if __name__ == "__main__":
    flags.DEFINE_integer("seed", 0, "Seed of the policy, the prompts and the sampling.")
    flags.DEFINE_enum("stage", "ppo", ["ppo", "grpo"], "The objective.")
    results.define_flags()
    app.run(main)
