"""Trains one stage.

    python -m train --config=configs/pretrain.py:smoke --workdir=runs/first
    python -m train --config=configs/sft.py:smoke --workdir=runs/sft \\
        --config.init_from.policy=runs/first --config.data.source=examples/chats.jsonl

    python -m train --config=configs/pretrain.py:smoke --workdir=runs/hour --hours=1
    python -m train --fork=runs/first@60 --workdir=runs/branch --config.optimizer.peak_lr=1e-4

A workdir that holds a checkpoint is resumed. Ctrl-C saves and stops; a second one leaves at once.
Exit codes: 0 done, 1 a deterministic error, 42 preempted by SIGTERM and saved, 74 no checkpoint can
be written, 129 another process has taken the workdir, 130 interrupted, 134 another process of the
run was lost, 142 a part of the run took too long (the watchdog).
"""

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train import loop  # after the flags were read: importing JAX takes seconds

    loop.run(**cli.run_arguments(), fork=flags.FLAGS.fork)


if __name__ == "__main__":
    cli.define_flags()
    cli.define_run_flags()
    flags.DEFINE_string(
        "fork", "", "RUN@STEP: a new run that continues from there, with the settings of RUN but "
        "for those that are given."
    )  # fmt: skip
    flags.DEFINE_float("hours", None, "As --config.steps=NUMBERh: hours of steps.")
    flags.DEFINE_float("flops", None, "As --config.steps=NUMBERflops.")
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
