"""PPO of a fine-tuned policy against a reward model.

    python -m train --config=configs/ppo.py:smoke --workdir=runs/ppo \\
        --config.init_from.policy=runs/sft --config.init_from.reward=runs/reward \\
        --config.data.source=examples/prompts.jsonl

A judge, `--config.init_from.judge=WORKDIR` of a second reward stage, decides the win rate.

Choice: `smoke`, 16 short steps for the model of `configs/pretrain.py:smoke`.

Hardware: an accelerator for models of 125M parameters and more; two laptop cores for the demo's.
Time: not measured by itself; the demo's stage takes about two minutes on two quiet cores.
Expect: a rising held-out `score` and `win_rate`; configs/chains/demo.py says what the demo's stage
reaches, and at which KL.
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, smoke=False)
    config = base.get_config()
    config.stage = "ppo"
    config.data.source = "tfds:pydocs/chat:train"
    config.data.on_long = "drop"
    config.data.batch_size = 64
    config.rl.prompt_length = 128
    config.rl.response_length = 256
    config.rl.rollout_batch = 256
    config.rl.epochs = 2
    config.ppo.critic_warmup = 2
    config.steps = 8 * 100
    config.optimizer.peak_lr = 1e-5
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.value_optimizer.peak_lr = 2e-5
    config.value_optimizer.schedule = "constant"
    config.value_optimizer.weight_decay = 0.0
    config.evaluate.every = 80
    config.checkpoint.every = 40
    if chosen["smoke"]:
        smoke(config)
    return config


def smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks a recipe of PPO or GRPO, for the model of `configs/pretrain.py:smoke` and the files
    of examples/, so that it ends within minutes on a laptop."""
    config.data.batch_size = config.rl.rollout_batch = 32
    config.rl.prompt_length = 96
    config.rl.response_length = 24
    config.rl.eval_prompts = 2
    config.rl.overlong_buffer = min(config.rl.overlong_buffer, 8)
    config.steps = 16
    config.evaluate.every = 0
