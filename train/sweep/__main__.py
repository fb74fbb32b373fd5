"""Trains a grid of runs and compares them: a table, a page, and a verdict in words.

    python -m train.sweep --config=configs/pretrain.py:smoke --workdir=runs/rates \\
        --config.data.source='examples/help/*.md' \\
        --grid=optimizer.peak_lr=1e-3,3e-3,1e-2 --grid=optimizer.name=adamw,muon --seeds=2
    python -m train.sweep --config=configs/pretrain.py:smoke --workdir=runs/drawn \\
        --log_uniform=optimizer.peak_lr=1e-4:1e-2 --trials=10

Each run is one of `python -m train`, in WORKDIR/TRIAL/seedN; runs that differ in learning rates,
seeds or steps share a compiled program. The same command resumes; other grids in the same workdir
add trials. A run that fails or diverges is counted, and the next one begins.
Exit codes: those of train, and 1 if a run failed or diverged.
"""

from absl import app, flags

from train import cli

FLAGS = ("workdir", "compilation_cache", "grid", "zip", "random", "log_uniform", "trials", "seed",
         "seeds", "search", "metric", "mode", "parallel", "launch", "at_once",
         "dry_run")  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    from tpu.launch import verbs
    from train.sweep import command  # after the flags were read: importing JAX takes seconds

    raise SystemExit(command.from_flags({name: flags.FLAGS[name].value for name in FLAGS}, verbs))


if __name__ == "__main__":
    cli.define_run()
    flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE; several are all combined.")
    flags.DEFINE_multi_string("zip", [], "KEY=VALUE,VALUE; several go pairwise.")
    flags.DEFINE_multi_string("random", [], "KEY=LOW:HIGH, drawn uniformly.")
    flags.DEFINE_multi_string("log_uniform", [], "KEY=LOW:HIGH, drawn uniformly in its logarithm.")
    flags.DEFINE_integer("trials", 0, "Number of draws.", 0)
    flags.DEFINE_integer("seed", 0, "Seed of the draws.", 0, 2**32 - 1)
    flags.DEFINE_integer("seeds", 1, "Runs of each trial: --config.seed and those after it.", 1)
    flags.DEFINE_enum(
        "search", "all", ["all", "optuna"], "all trials; or optuna, which chooses each by those "
        "before, and gives up runs that fall behind."
    )  # fmt: skip
    flags.DEFINE_string(
        "metric", "", "What is compared, as eval/loss; by default the first of the stage's report."
    )  # fmt: skip
    flags.DEFINE_enum("mode", None, ["min", "max"], "Which values of --metric are better.")
    flags.DEFINE_integer("parallel", 1, "Processes on this machine, on CPU.", 1, 1024)
    flags.DEFINE_string("launch", "", "Verb and flags of tpu.launch, which starts each run.")
    flags.DEFINE_integer("at_once", None, "Most runs of --launch at one time; by default 1.", 1)
    flags.DEFINE_bool("dry_run", False, "Print what --launch would do.")
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
