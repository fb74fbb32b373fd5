"""KTO: a fine-tuned policy learns from answers that are good or not, one by one.

Rankings are split: the answer ranked first is good, the others are not.

    python -m train --config=configs/kto.py --workdir=runs/kto \\
        --config.init_from.policy=runs/sft --config.data.source=ratings.jsonl \\
        --config.data.fields.good='{thumb}'
"""

from configs import dpo


def get_config():
    config = dpo.get_config()
    config.stage = "kto"
    return config
