"""Several stages in one process, each started from earlier ones, and a report at the end.

    python -m train.chain --config=configs/chains/demo.py --workdir=runs/demo

The recipe has `order`, names of stages, and `stages`, a recipe for each; `init_from` names earlier
entries. A stage that has finished leaves a DONE file and is not run again; an interrupted one
resumes from its checkpoint.
"""

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train.guards import lock
    from train.workflows import multistage  # after the flags were read: importing JAX takes seconds

    with lock.owned(flags.FLAGS.workdir):
        multistage.run(**cli.run_arguments())


if __name__ == "__main__":
    cli.define_flags()
    cli.define_run_flags()
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
