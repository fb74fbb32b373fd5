"""KTO: a fine-tuned policy learns from answers that are good or not, one by one.

    python -m train --config=configs/kto.py --workdir=runs/kto \\
        --config.init_from.policy=runs/sft --config.data.source=ratings.jsonl \\
        --config.data.fields.good='{thumb}'

Rankings are split: the answer ranked first is good, the others are not. Choice: `smoke`, as in
configs/dpo.py.

Hardware: an accelerator; two CPU cores for `smoke`.
Time: not measured.
Expect: a loss that begins at the mean of the weights' halves, 0.5, and rising held-out
`accuracy/overall` and `margin`.
"""

import ml_collections

from configs import dpo


def get_config(arg=None) -> ml_collections.ConfigDict:
    return dpo.get_config(arg, "kto", 1e-6)
