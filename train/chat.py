"""Talk to a checkpoint: a conversation on the terminal, or one answer for a script.

    python -m train.chat --workdir=runs/demo/ppo
    python -m train.chat --workdir=runs/demo/ppo --prompt="What does `shutil.copytree` do?"

`/reset` forgets the conversation; `/quit` or Ctrl-D ends it. Without a terminal, every line of
standard input is a turn.
"""

import os

from absl import app, flags

from model.generate import Sampling
from train import cli
from train.runtime.metrics import quiet_to_file
from train.workflows import conversation


def main(argv: list[str]) -> None:
    del argv
    quiet_to_file(os.devnull)
    f = flags.FLAGS
    with cli.expected_errors():
        sampling = Sampling(f.max_new_tokens, f.temperature, top_p=f.top_p)
        conversation.run(f.workdir, sampling, f.seed, f.prompt)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The run to talk to, which trained a policy.")
    flags.DEFINE_string("prompt", None, "A prompt to answer before exiting.")
    flags.DEFINE_float(
        "temperature", 0.7, "Sampling temperature; 0 takes the likeliest token.", lower_bound=0
    )
    flags.DEFINE_float(
        "top_p", 1.0, "Sample from the likeliest tokens with this much probability.", 0.01, 1.0
    )
    flags.DEFINE_integer(
        "max_new_tokens", 128, "Largest number of tokens of an answer.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Seed of sampling.", 0, 2**32 - 1)
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=cli.parse_flags)
