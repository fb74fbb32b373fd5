"""Tiny files and recipes for tests that run whole stages: the byte tokenizer, 2 layers, 16 rows."""

import contextlib
import fcntl
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_collections

from train.attempt import Hooks
from train.config import run as configs
from train.rl.rewards import Episode
from train.sweep.programs import Count, Steps

WORDS = ("copy", "move", "file", "list", "tree", "open", "close", "read", "path", "name", "of")
# {stage: {role: the stage whose run it starts from}}
ORIGINS = {
    "pretrain": {},
    "sft": {"policy": "pretrain"},
    "reward": {"policy": "sft"},
    "dpo": {"policy": "sft"},
    "kto": {"policy": "sft"},
    "orpo": {"policy": "sft"},
    "simpo": {"policy": "sft"},
    "ppo": {"policy": "sft", "reward": "reward"},
    "grpo": {"policy": "sft", "reward": "reward"},
}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file: pytest's workers take turns."""
    with path.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


class Stages:
    """A directory of `write_files` in which each stage is trained when it is first asked for.

    `stages / "dpo"` is the workdir of a finished DPO run, for which pretraining and SFT are run too
    but no other stage; `stages / "text.txt"` is a file. pytest's workers share the directory.
    """

    def __init__(self, directory: Path, train: Callable[[str, "Stages"], None]):
        """`train(stage, stages)` trains a stage in a directory of its name."""
        self.directory, self._train = directory, train
        directory.mkdir(exist_ok=True)
        with locked(directory / "files.lock"):
            if not (directory / "text.txt").exists():
                write_files(directory)

    def __truediv__(self, name: str) -> Path:
        path = self.directory / name
        if name in ORIGINS:
            for origin in ORIGINS[name].values():
                self / origin
            done = self.directory / f"{name}.done"
            with locked(self.directory / f"{name}.lock"):
                if not done.exists():
                    self._train(name, self)
                    done.touch()
        return path


def write_files(directory: Path) -> None:
    """Text, chats, preferences and prompts of a few words each, the same every time."""
    rng = random.Random(0)

    def words(n):
        return " ".join(rng.choice(WORDS) for _ in range(n))

    def dump(name, records):
        (directory / name).write_text("".join(json.dumps(r) + "\n" for r in records))

    (directory / "text.txt").write_text("".join(words(30) + "\n" for _ in range(60)))
    dump("chats.jsonl", [{"prompt": words(2), "response": words(3)} for _ in range(60)])
    dump(
        "preferences.jsonl",
        [
            {
                "prompt": words(2),
                "responses": [words(2), words(2) + " bad", words(3) + " bad bad"],
                "confidence": 1 - 0.1 * (i % 3),
            }
            for i in range(60)
        ],
    )


def sharing() -> Hooks:
    """Hooks for runs of a test: those whose step is the same program trace and compile it once."""
    return Hooks(jit=Steps(Count()))


def brevity(episode: Episode) -> float:
    """A reward function (train/rl/rewards.py)."""
    return -0.01 * len(episode.response)


def recipe(
    stage: str, directory: Path | Stages, **init_from: Path | str
) -> ml_collections.ConfigDict:
    """The tiny recipe of a stage, on the files of `write_files`."""
    rankings = dict.fromkeys(("reward", "dpo", "kto", "orpo", "simpo"), "preferences.jsonl")
    source = ({"pretrain": "text.txt"} | rankings).get(stage, "chats.jsonl")
    config = configs.default()
    config.stage = stage
    config.init_from = {role: str(path) for role, path in init_from.items()}
    config.tokenizer.kind = "byte"
    config.model.scan_unroll = 0
    if not init_from:
        config.model.size = "tiny"
    config.data.source = str(directory / source)
    config.data.heldout_fraction = 0.2
    config.data.on_long = "drop"
    config.data.length = 48
    config.data.batch_size = 16
    config.data.share_prompt = stage == "reward"
    config.optimizer.peak_lr = 3e-3
    config.optimizer.warmup_steps = 2
    config.value_optimizer.peak_lr = 3e-3
    config.value_optimizer.warmup_steps = 2
    config.rl.prompt_length = 24
    config.rl.response_length = 8
    config.rl.rollout_batch = 32
    config.rl.eval_prompts = 32
    # Every branch that a setting opens: the identities must hold with all of them.
    config.optimizer.name = "muon" if stage == "sft" else "adamw"
    config.optimizer.schedule = "wsd" if stage == "pretrain" else "cosine"
    config.dpo.label_smoothing = 0.1
    config.kto.label_smoothing = config.simpo.label_smoothing = 0.1
    config.loss.ties = 0.5
    config.grpo.group_size = 4
    config.grpo.max_draws = 2
    config.rewards.length = 0.5 if stage in ("ppo", "grpo") else 0.0
    config.rewards.target_length = 4
    config.rl.reward_function = "stage_fixtures:brevity" if stage in ("ppo", "grpo") else ""
    config.rl.kl_loss_coef = 0.05
    config.rl.importance_cap = 2.0
    if stage == "grpo":
        config.rl.rollouts_ahead, config.rl.sample_batch = 1, 16
        config.rl.int8_weights = config.rl.int8_cache = True
    config.rl.overlong_buffer = 2
    config.rl.kl_target = 0.5
    config.rl.kl_horizon = 100
    config.rl.missing_eos = "penalty"
    config.ppo.bootstrap_truncated = True
    config.rl.dual_clip = 3.0
    config.rl.max_kl = 10.0
    config.rl.pretrain_coef = 0.1
    config.rl.record = 1
    config.pretrain_data.source = str(directory / "text.txt")
    config.pretrain_data.length = 32
    config.steps = 8
    config.log_every = 1
    config.checkpoint.every = 3
    config.checkpoint.keep = 10
    config.evaluate.samples = 2 if stage in ("sft", "dpo", "ppo") else 0
    config.evaluate.sample_tokens = 4
    return config
