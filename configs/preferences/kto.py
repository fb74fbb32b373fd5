"""KTO: a fine-tuned policy learns from answers that are good or not, one by one.

    python -m train --config=configs/preferences/kto.py --workdir=runs/kto \\
        --config.init_from.policy=runs/sft --config.data.source=examples/ratings.jsonl

Rankings are split: the answer ranked first is good, the others are not. Choice: `smoke`, as in
configs/dpo.py.

Hardware: an accelerator; two CPU cores for `smoke`.
Time: three minutes for `smoke` on two busy cores; not measured without it.
Expect: a loss that begins at half the mean of the answers' weights, 0.5 by default, and rising
held-out `accuracy/overall` and `margin`. `smoke` from the model of `configs/pretrain.py:smoke`:
loss 0.83 → 0.80, margin 0 → 0.25, accuracy 0.54 → 0.55.
"""

import ml_collections

from configs import base, dpo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    config = dpo.get_config(arg, "kto", 1e-6)
    if base.choices(arg, smoke=False)["smoke"]:
        config.kto.desirable_weight = 5.0  # one of six answers of the built-in rankings is good
    return config
