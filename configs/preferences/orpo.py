"""ORPO: fine-tuning and preferences in one stage, without a reference; it starts from a pretrained
policy.

    python -m train --config=configs/preferences/orpo.py --workdir=runs/orpo \\
        --config.init_from.policy=runs/pretrain --config.data.source=examples/preferences.jsonl

Choice: `smoke`, as in configs/dpo.py.

Hardware: an accelerator; two CPU cores for `smoke`.
Time: three minutes for `smoke` on two busy cores; not measured without it.
Expect: a held-out loss that falls at first by fine-tuning, while `accuracy/overall` rises more
slowly. `smoke` from the model of `configs/pretrain.py:smoke`: loss 5.16 → 5.00, accuracy
0.50 → 0.53.
"""

import ml_collections

from configs import dpo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return dpo.get_config(arg, "orpo", 8e-6)  # the authors' rate
