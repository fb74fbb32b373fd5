"""Runs a recipe on several processes: on this machine, and on Cloud TPU.

    python -m tpu.launch local --processes=4 --devices=2 -- \\
        --config=configs/pretrain.py:smoke --workdir=runs/four

    python -m tpu.launch supervise --name=first --accelerator=v5e-16 --zone=us-west4-a \\
        --bucket=gs://BUCKET -- --config=configs/pretrain.py --workdir=gs://BUCKET/runs/first

The flags of `python -m train` follow `--`; `-m train.chain` before them runs a chain. `--dry_run`
prints the commands. Exit codes are those of the run (train/runtime/processes.py).
"""

import sys

from tpu.launch import verbs
from train.runtime import outputs

if __name__ == "__main__":
    outputs.guard()
    sys.exit(verbs.main(sys.argv[1:], __doc__))
