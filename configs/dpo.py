"""Direct preference optimization: a fine-tuned policy learns from rankings, without a reward model.

    python -m train --config=configs/dpo.py --workdir=runs/dpo \\
        --config.init_from.policy=runs/sft --config.data.source=preferences.jsonl

The reference is the policy it starts from, or `--config.init_from.reference=WORKDIR`. The loss
begins at log 2 = 0.693; held-out `accuracy/overall` and `margin` are to rise.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.stage = "dpo"
    config.data.source = "tfds:pydocs/preferences:train"
    config.data.on_long = "drop"
    config.data.length = 512
    config.data.batch_size = 32
    config.steps = 500
    config.optimizer.peak_lr = 1e-6
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.0
    config.evaluate.every = 100
    config.checkpoint.every = 100
    return config
