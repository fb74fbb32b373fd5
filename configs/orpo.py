"""ORPO: fine-tuning and preferences in one stage, without a reference.

    python -m train --config=configs/orpo.py --workdir=runs/orpo \\
        --config.init_from.policy=runs/pretrain --config.data.source=preferences.jsonl

Hardware: an accelerator for models of 125M parameters and more.
Time: not measured; tests take a few steps of a tiny model.
Expect: a falling held-out loss and rising held-out `accuracy/overall` and `margin`.
"""

from configs import dpo


def get_config():
    config = dpo.get_config()
    config.stage = "orpo"
    config.optimizer.peak_lr = 8e-6  # the authors'
    return config
