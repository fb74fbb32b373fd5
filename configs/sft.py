"""Supervised fine-tuning on conversations, loss on the assistant's tokens alone.

    python -m train --config=configs/sft.py:smoke --workdir=runs/sft \\
        --config.init_from.policy=runs/pretrain --config.data.source=examples/chats.jsonl

Choice: `smoke`, 40 short steps for the model of `configs/pretrain.py:smoke`.

Hardware: an accelerator for models of 125M parameters and more; two laptop cores for the demo's.
Time: not measured by itself; the demo's stage takes over a minute on two quiet cores.
Expect: a falling held-out loss; configs/chains/demo.py says by how much the demo's stage lowers it.
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, smoke=False)
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
    if chosen["smoke"]:
        smoke(config)
    return config


def smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks the recipe, for the model of `configs/pretrain.py:smoke` and the files of examples/,
    so that it ends within minutes on a laptop."""
    config.tokenizer.vocab_size = 512  # of a run, or of `data.inspect`, that starts from no model
    config.data.length = 256
    config.data.batch_size = 8
    config.steps = 40
    config.optimizer.peak_lr = 3e-3
    config.optimizer.warmup_steps = 5
    config.evaluate.every = 0
