"""Best of n: samples answers to prompts, keeps each prompt's best, and writes them as conversations
to fine-tune on (rejection sampling).

    python -m train.best_of --config=configs/grpo.py:smoke --workdir=runs/best \\
        --config.init_from.policy=runs/sft --config.init_from.reward=runs/reward \\
        --config.data.source=examples/prompts.jsonl --config.grpo.group_size=16
    python -m train --config=configs/sft.py:smoke --workdir=runs/sft2 \\
        --config.init_from.policy=runs/sft --config.data.source=runs/best/answers.jsonl

The recipe is that of a grpo stage: its sampler, its rewards, `grpo.group_size` answers a prompt.
Truncated answers are not kept.
"""

import math

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train.guards import lock
    from train.rl import best_of  # after the flags were read: importing JAX takes seconds

    with lock.owned(flags.FLAGS.workdir):
        best_of.run(cli.config(), flags.FLAGS.workdir, flags.FLAGS.least)


if __name__ == "__main__":
    cli.define_flags()
    flags.DEFINE_float("least", -math.inf, "Leave out prompts whose best answer scores less.")
    flags.register_validator("least", lambda x: x < math.inf, "write a number")
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
