"""SimPO: a fine-tuned policy learns from rankings by its average log-probability, without a
reference.

    python -m train --config=configs/preferences/simpo.py --workdir=runs/simpo \\
        --config.init_from.policy=runs/sft --config.data.source=examples/preferences.jsonl

Choice: `smoke`, as in configs/dpo.py.

Hardware: an accelerator; two CPU cores for `smoke`.
Time: four minutes for `smoke` on two busy cores; not measured without it.
Expect: rising held-out `accuracy/overall` and `margin`. `smoke` from the model of
`configs/pretrain.py:smoke`: accuracy 0.50 → 0.60, margin 0.05 → 0.13, loss 1.29 → 1.24.
"""

import ml_collections

from configs import dpo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    return dpo.get_config(arg, "simpo", 1e-6)
