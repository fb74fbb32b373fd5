"""Talk to a checkpoint: on the terminal, on a web page of this machine, or in a script.

    python -m train.chat --workdir=runs/demo/ppo
    python -m train.chat --workdir=runs/demo/ppo --prompt="What does `shutil.copytree` do?"
    python -m train.chat --workdir=runs/demo/ppo --against=runs/demo/sft --reward=runs/demo/reward
    python -m train.chat --workdir=runs/demo/ppo --web

`/help` lists the commands of a conversation; Ctrl-C stops an answer, Ctrl-D ends. Without a
terminal, every line of standard input is a question, and the answers alone are printed.
"""

import os

from absl import app, flags

from train import cli
from train.chat import run


def main(argv: list[str]) -> None:
    del argv
    from train.runtime.metrics import quiet_to_file

    f = flags.FLAGS
    sampling = {n: f[n].value for n in ("max_new_tokens", "temperature", "top_p")}
    port = f.port if f.web else 0
    with cli.expected_errors():
        quiet_to_file(os.devnull)
        run.run(
            f.workdir, f.against, f.reward, sampling, f.seed, f.system, f.prompt, port, f.passages
        )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The run to talk to, which trained a policy, or RUN@STEP.")
    flags.DEFINE_string("against", "", "A second such run, which answers the same questions.")
    flags.DEFINE_string("reward", "", "A run of a reward model, which scores the answers.")
    flags.DEFINE_string("system", "", "A system message.")
    flags.DEFINE_string("passages", "", "A folder of documents to answer from.")
    flags.DEFINE_string("prompt", None, "A prompt to answer before exiting.")
    flags.DEFINE_bool("web", False, "Serve a page on this machine, in place of the terminal.")
    flags.DEFINE_integer("port", 8000, "Port of the page.", 1, 65535)
    flags.DEFINE_float(
        "temperature", 0.7, "Sampling temperature; 0 takes the likeliest token.", 0, 100
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
