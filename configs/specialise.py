"""SFT of low-rank adapters of an imported open model, on your conversations.

    python -m train.convert import --from=HuggingFaceTB/SmolLM2-135M-Instruct --workdir=runs/base
    python -m train --config=configs/specialise.py --workdir=runs/special \\
        --config.init_from.policy=runs/base --config.data.source=examples/chats.jsonl

Choice: `smoke` (few and short rows, for a model of 135M parameters on a laptop's two cores).

Hardware: an accelerator; for `smoke` two laptop cores.
Time: `smoke` took 9 minutes with SmolLM2-135M-Instruct on two cores that other work shared; not
measured without it.
Expect: with `smoke` on 4,031 customer requests a held-out loss of 1.861 → 1.119 nats a token.
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, smoke=False)
    config = base.get_config()
    config.stage = "sft"
    config.model.dtype = "bfloat16"
    config.model.remat = "minimal"
    config.data.source = "examples/chats.jsonl"
    config.data.length = 1024
    config.data.batch_size = 32
    config.data.on_long = "drop"
    config.steps = 300
    config.loss.chunk = 256
    config.loss.z_loss = 0.0  # keeps the scale of the open model's logits
    config.lora.rank = 16
    config.lora.alpha = 32.0
    # Every projection: of a mixture of experts, those of each expert.
    config.lora.targets = "query,key,value,out,(expert_)?gate,(expert_)?up,(expert_)?down"
    config.optimizer.peak_lr = 2e-4
    config.optimizer.warmup_steps = 10
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.0
    config.evaluate.every = 100
    config.checkpoint.every = 100
    if chosen["smoke"]:
        smoke(config)
    return config


def smoke(config: ml_collections.ConfigDict) -> None:
    """Shrinks the recipe so that a model of 135M parameters finishes in minutes on two laptop
    cores."""
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.data.length = 256
    config.data.batch_size = 4
    config.data.heldout_limit = 16
    config.steps = 12
    config.optimizer.peak_lr = 1e-3
    config.optimizer.warmup_steps = 2
    config.log_every = 1
    config.evaluate.every = 0
    config.evaluate.samples = 2
    config.checkpoint.every = 0
