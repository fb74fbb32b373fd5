"""SimPO: a fine-tuned policy learns from rankings by its average log-probability, without a
reference.

    python -m train --config=configs/simpo.py --workdir=runs/simpo \\
        --config.init_from.policy=runs/sft --config.data.source=preferences.jsonl

Hardware: an accelerator for models of 125M parameters and more.
Time: not measured; tests take a few steps of a tiny model.
Expect: a falling held-out loss and rising held-out `accuracy/overall` and `margin`.
"""

from configs import dpo


def get_config():
    config = dpo.get_config()
    config.stage = "simpo"
    return config
