"""Improves a policy in rounds: rank, reward model, PPO or DPO, replay beside the last round.

    python -m train.improve --workdir=runs/improve --config=configs/improve.py:smoke,\\
policy=runs/demo/sft,prompts=examples/prompts.jsonl,conversations=examples/chats.jsonl

Each round serves a page (docs/people.md) until its questions are answered, and goes on by itself;
--annotator=MODULE:FUNCTION answers without a page. Everything is kept as it is made: the same
command resumes. At the end: a table, and WORKDIR/rounds.jsonl.
Exit codes: those of train; 1 also if a round is no improvement.
"""

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    from train.improve import command  # after the flags were read: importing JAX takes seconds

    cli.start(lambda: command.kept(f.workdir))
    raise SystemExit(command.run(cli.config(), f.workdir, f.annotator, f.port, f.hosts))


if __name__ == "__main__":
    cli.define_run()
    flags.DEFINE_string("annotator", "", "MODULE:FUNCTION, (messages, answers) -> their ranks.")
    flags.DEFINE_integer("port", 8001, "Port of the page.", 1, 65535)
    flags.DEFINE_list("hosts", [], "Other names of this machine, those of tunnels to the page.")
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
