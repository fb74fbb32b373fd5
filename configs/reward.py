"""A reward model from people's rankings (Bradley-Terry).

    python -m train --config=configs/reward.py:smoke --workdir=runs/reward \\
        --config.init_from.policy=runs/sft --config.data.source=examples/preferences.jsonl

Choice: `smoke`, 40 short steps for the model of `configs/pretrain.py:smoke`.

Hardware: an accelerator for models of 125M parameters and more; two laptop cores for the demo's.
Time: not measured by itself; the demo's stage took 102 s on two quiet cores.
Expect: held-out `accuracy/overall` above that of word overlap. The demo's stage ranks over 85%
of pairs right, word overlap 55%; SmolLM2-135M ranks 66.7% of GSM8K solutions right
(docs/benchmarks.md).
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, smoke=False)
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
    if chosen["smoke"]:
        smoke(config)
    return config


def smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks the recipe, for the model of `configs/pretrain.py:smoke` and the files of examples/,
    so that it ends within minutes on a laptop."""
    config.data.length = 256
    config.data.batch_size = 4
    config.steps = 40
    config.optimizer.peak_lr = 3e-3
    config.optimizer.warmup_steps = 5
    config.evaluate.every = 0
