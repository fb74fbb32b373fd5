"""The scale of a reward model: the gain and bias that give the scores of a policy's answers mean 0
and standard deviation 1 (Ziegler et al. 2019, arXiv:1909.08593), written beside its weights.

    python -m train.normalize --config=configs/ppo.py:smoke --workdir=runs/reward \\
        --config.init_from.policy=runs/sft --config.data.source=examples/prompts.jsonl

The recipe is that of the ppo or grpo stage to come, with its prompts and its sampler; the workdir
is the reward model's. Runs that start from it read `normalizer.json` instead of computing the scale
of their own first rollout, so that their rewards can be compared.
"""

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train.guards import lock
    from train.rl import score_scale  # after the flags were read: importing JAX takes seconds

    with lock.owned(flags.FLAGS.workdir):
        score_scale.run(cli.config(), flags.FLAGS.workdir, flags.FLAGS.answers)


if __name__ == "__main__":
    cli.define_flags()
    flags.DEFINE_integer(
        "answers", 512, "Number of answers from which the scale is computed.", 2, 2**24
    )
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
