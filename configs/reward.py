"""A reward model from people's rankings (Bradley-Terry).

    python -m train --config=configs/reward.py --workdir=runs/reward \\
        --config.init_from.policy=runs/sft --config.data.source=preferences.jsonl
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.stage = "reward"
    config.data.source = "tfds:pydocs/preferences:train"
    config.data.on_long = "drop"
    config.data.length = 512
    config.data.batch_size = 32
    config.steps = 500
    config.optimizer.peak_lr = 5e-5
    config.optimizer.warmup_steps = 50
    config.evaluate.every = 100
    config.checkpoint.every = 100
    return config
