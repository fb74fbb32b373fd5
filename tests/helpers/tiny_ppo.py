"""PPO and GRPO of tiny random models on random prompts, without the stages before them."""

import json
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from benchmarks.ppo.steady import random_prompts
from benchmarks.random_models import write_random
from data.text.builtin import BuiltinTokenizer
from model.config import TransformerConfig
from train.config import run as configs

TOKENIZER = BuiltinTokenizer("char", b"abcdefghijklmnopqrstuvwxy")
MODEL = TransformerConfig(
    vocab_size=TOKENIZER.vocab_size, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=64, vocab_multiple=32,
)  # fmt: skip
P, R, ROWS, MINIBATCH, EPOCHS = 6, 8, 32, 16, 2
PER_ROLLOUT = EPOCHS * ROWS // MINIBATCH
OPEN_DATA = random_prompts(P, 16 * ROWS, 32)


def write_origins(directory: Path) -> None:
    """Writes the models and data that a run starts from: a policy, a reward model, a critic, and
    text to mix in."""
    for seed, role in enumerate(("policy", "reward", "value")):
        write_random(directory / role, role, MODEL, TOKENIZER, seed)
    lines = (json.dumps({"text": "abcdefghijklmnopqrstuvwxy"[i : i + 9]}) for i in range(16))
    (directory / "text.jsonl").write_text("\n".join(lines) + "\n")


def recipe(
    stage: str, directory: Path, rollouts: int = 2, roles: Sequence[str] = ("policy", "reward")
) -> ml_collections.ConfigDict:
    """Rollouts of 32 answers of at most 8 tokens, 2 epochs of 2 minibatches each."""
    config = configs.default()
    config.stage = stage
    config.init_from = {role: str(directory / role) for role in roles}
    config.model.scan_unroll = 0
    config.steps = rollouts * PER_ROLLOUT
    config.data.batch_size = MINIBATCH
    for optimizer, rate in ((config.optimizer, 1e-2), (config.value_optimizer, 3e-2)):
        optimizer.peak_lr = rate
        optimizer.schedule = "constant"
        optimizer.warmup_steps = 0
        optimizer.weight_decay = 0.0
    config.rl.prompt_length, config.rl.response_length = P, R
    config.rl.rollout_batch, config.rl.epochs = ROWS, EPOCHS
    config.rl.temperature = 0.7
    config.rl.eval_prompts = 32
    config.pretrain_data.source = str(directory / "text.jsonl")
    config.pretrain_data.length = 12
    config.pretrain_data.batch_size = MINIBATCH
    config.grpo.group_size = 4
    config.evaluate.at_start = False
    config.evaluate.samples = 0
    config.checkpoint.every = 0
    config.log_every = 1
    return config
