"""Supervised fine-tuning on conversations, loss on the assistant's tokens alone.

    python -m train --config=configs/sft.py --workdir=runs/sft \\
        --config.init_from.policy=runs/pretrain --config.data.source=chats.jsonl

Hardware: an accelerator for models of 125M parameters and more; two laptop cores for the demo's.
Time: not measured by itself; the demo's stage takes over a minute on two quiet cores.
Expect: a falling held-out loss; configs/chains/demo.py says by how much the demo's stage lowers it.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.stage = "sft"
    config.data.source = "tfds:pydocs/chat:train"
    config.data.on_long = "drop"
    config.data.length = 1024
    config.data.batch_size = 32
    config.steps = 1000
    config.optimizer.peak_lr = 1e-4
    config.optimizer.warmup_steps = 50
    config.evaluate.every = 250
    config.checkpoint.every = 250
    return config
