"""SimPO: a fine-tuned policy learns from rankings by its average log-probability, without a
reference.

    python -m train --config=configs/simpo.py --workdir=runs/simpo \\
        --config.init_from.policy=runs/sft --config.data.source=preferences.jsonl
"""

from configs import dpo


def get_config():
    config = dpo.get_config()
    config.stage = "simpo"
    return config
