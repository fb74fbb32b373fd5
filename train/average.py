"""Averages the weights of several checkpoints (a model soup): steps of one run, or several runs.

    python -m train.average runs/sft@60 runs/sft@80 --workdir=runs/soup
    python -m train.average runs/seed0 runs/seed1 runs/seed2 --workdir=runs/soup

The result is a workdir like a finished stage's: `--config.init_from.policy=runs/soup` starts from
it, `train.chat` talks to it, `train.convert export` exports it. Adapters are merged first.
"""

import functools
import os

from absl import app, flags

from train import cli

MOST = 1000  # models


def main(argv: list[str]) -> None:
    from train.interop import averaging  # after the flags were read: importing JAX takes seconds
    from train.runtime.metrics import quiet_to_file

    f = flags.FLAGS
    with cli.expected_errors():
        quiet_to_file(os.devnull)
        averaging.average(argv[1:], f.workdir, f.shares, f.role)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The workdir to create.")
    flags.DEFINE_list("shares", [], "The share of each model, as 0.7,0.3; equal ones by default.")
    flags.DEFINE_string("role", "", "policy, reward or value; the first by default.")
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=functools.partial(cli.parse_flags, words=MOST))
