"""KTO: a fine-tuned policy learns from answers that are good or not, one by one.

Rankings are split: the answer ranked first is good, the others are not.

    python -m train --config=configs/kto.py --workdir=runs/kto \\
        --config.init_from.policy=runs/sft --config.data.source=ratings.jsonl \\
        --config.data.fields.good='{thumb}'

Hardware: an accelerator for models of 125M parameters and more.
Time: not measured; tests take a few steps of a tiny model.
Expect: a loss that begins at 0.5, and rising held-out `accuracy/overall` and `margin`.
"""

from configs import dpo


def get_config():
    config = dpo.get_config()
    config.stage = "kto"
    return config
