"""Pretraining on text: next-token prediction.

    python -m train --config=configs/pretrain.py:size=125m --workdir=runs/pretrain \\
        --config.data.source='examples/help/*.md'

Choices: `size` (model/sizes.py), `smoke` (a few steps of a tiny model, to check that it runs).
Without `data.source` it reads the documentation of the running Python.

Hardware: an accelerator; for `smoke` two laptop cores.
Time: not measured with 125m; `smoke` took 65 s on two cores that other work shared.
Expect: with `smoke` on the documentation of Python 3.11 a held-out loss of 6.25 → 5.04 nats a
token, 4.15 bits per byte. Not measured with 125m; configs/chains/demo.py says what the demo's
model reaches on the same text.
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, size="125m", smoke=False)
    config = base.get_config()
    config.stage = "pretrain"
    config.model.size = chosen["size"]
    config.model.remat = "minimal"
    config.tokenizer.vocab_size = 8192
    config.data.length = 1024
    config.data.batch_size = 64
    config.steps = 10_000
    config.optimizer.peak_lr = 6e-4
    config.optimizer.warmup_steps = 500
    config.evaluate.every = 1000
    config.checkpoint.every = 500
    if chosen["smoke"]:
        smoke(config)
    return config


def smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks a pretraining recipe so that it ends within a minute on a laptop."""
    config.model.size = "tiny"
    config.model.remat = "none"
    config.tokenizer.vocab_size = 512
    config.data.length = 64
    config.data.batch_size = 16
    config.data.heldout_limit = 64
    config.steps = 50
    config.optimizer.peak_lr = 3e-3
    config.optimizer.warmup_steps = 5
    config.evaluate.every = 0
