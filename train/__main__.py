"""Trains one stage.

    python -m train --config=configs/pretrain.py:smoke --workdir=runs/first
    python -m train --config=configs/sft.py:smoke --workdir=runs/sft \\
        --config.init_from.policy=runs/first --config.data.source=examples/chats.jsonl

A workdir that holds a checkpoint is resumed. Ctrl-C saves and stops; a second one leaves at once.
Exit codes: 0 done, 1 a deterministic error, 42 preempted by SIGTERM and saved, 74 no checkpoint can
be written, 130 interrupted, 134 another process of the run was lost.
"""

from absl import app

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train import loop  # after the flags were read: importing JAX takes seconds

    loop.run(**cli.run_arguments())


if __name__ == "__main__":
    cli.define_flags()
    cli.define_run_flags()
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
