"""ORPO: fine-tuning and preferences in one stage, without a reference; it starts from a pretrained
policy.

    python -m train --config=configs/orpo.py --workdir=runs/orpo \\
        --config.init_from.policy=runs/pretrain --config.data.source=preferences.jsonl

The held-out loss is to fall at first by fine-tuning; `accuracy/overall` rises more slowly. With
`:smoke` and `--config.init_from.policy=WORKDIR` of `configs/pretrain.py:smoke`, three minutes on
two busy CPU cores: loss 5.16 → 5.00, accuracy 0.50 → 0.53.
"""

import ml_collections

from configs import dpo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return dpo.get_config(arg, "orpo", 8e-6)  # the authors' rate
