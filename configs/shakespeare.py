"""A character-level model of Shakespeare, at nanoGPT's setting for a CPU: minutes on a laptop.

    python -m train --config=configs/shakespeare.py --workdir=runs/shakespeare

reads 34 kB of *The Tempest* (examples/shakespeare/), which is too little for all of the steps. With
the 1.1 MB of nanoGPT's text:

    curl -O https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    head -c 1003854 input.txt > train.txt; tail -c +1003855 input.txt > val.txt
    python -m train --config=configs/shakespeare.py --workdir=runs/shakespeare \\
        --config.data.source=train.txt --config.data.heldout_source=val.txt

4 layers, 4 heads, 128 wide, a context of 64, 12 rows a step, 2,000 steps, AdamW at 1e-3.

    python -m train --config=configs/shakespeare.py:quick --workdir=runs/quick

reaches the loss of nanoGPT's recipe in 300 steps, by Muon (on the same text, with the same two
settings).

Choices: `quick`.

Hardware: two laptop cores.
Time: 4 minutes beside other work.
Expect: on nanoGPT's text a held-out loss of 1.646 nats a character, with `quick` 1.870. nanoGPT's
README gives 1.88 for its model of this size after 2,000 steps; docs/benchmarks.md says what
differs.
"""

import ml_collections

from configs import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    chosen = base.choices(arg, quick=False)
    config = base.get_config()
    config.stage = "pretrain"
    config.model.size = "1m"  # a gate's three matrices have as many weights as nanoGPT's two
    config.model.scan_unroll = 0  # fastest on CPU
    config.tokenizer.kind = "char"
    config.data.source = "examples/shakespeare/train.txt"
    config.data.heldout_source = "examples/shakespeare/val.txt"
    config.data.documents = "file"
    config.data.length = 65  # 64 characters are read, and 64 predicted
    config.data.batch_size = 12
    config.steps = 2000
    config.optimizer.peak_lr = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.b2 = 0.99
    config.evaluate.every = 500
    config.checkpoint.every = 500
    if chosen["quick"]:
        config.steps = 300
        config.optimizer.name = "muon"
        config.optimizer.peak_lr = 6e-3
        config.optimizer.warmup_steps = 20
        config.optimizer.schedule = "wsd"
        config.optimizer.decay_fraction = 0.5
        config.evaluate.every = 0
        config.evaluate.at_start = False
        config.checkpoint.every = 0
    return config
