"""Direct preference optimization: a fine-tuned policy learns from rankings, without a reward model.

    python -m train --config=configs/dpo.py --workdir=runs/dpo \\
        --config.init_from.policy=runs/sft --config.data.source=preferences.jsonl

The reference is the policy it starts from, or `--config.init_from.reference=WORKDIR`.

Hardware: an accelerator; two cores for SmolLM2-135M with adapters.
Time: not measured by itself; 50 steps of SmolLM2-135M in bfloat16 took 7 minutes on two Xeon cores.
Expect: a loss that begins at log 2 = 0.693, and rising held-out `accuracy/overall` and `margin`. In
that run a judge preferred 85.3% of the answers to the start's (docs/benchmarks.md).
"""

from configs import base


def get_config():
    config = base.get_config()
    config.stage = "dpo"
    config.data.source = "tfds:pydocs/preferences:train"
    config.data.on_long = "drop"
    config.data.length = 512
    config.data.batch_size = 32
    config.steps = 500
    config.optimizer.peak_lr = 1e-6
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.0
    config.evaluate.every = 100
    config.checkpoint.every = 100
    return config
