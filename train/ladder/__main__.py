"""Trains models of several sizes on several numbers of tokens, and fits scaling laws to them.

    python -m train.ladder --config=configs/pretrain.py:smoke --workdir=runs/ladder \\
        --config.data.source='examples/help/*.md' --sizes=tiny,embed_dim=48,embed_dim=64 \\
        --tokens=5x,20x --predict=1m,1e15flops

A size is a row of model/sizes.py, settings of the model as embed_dim=64, or both as
1m+num_layers=2. Every run is a workdir in --workdir; an interrupted ladder resumes, and a run that
fails is passed over. At the end: table.md, ladder.json, ladder.html.
Exit codes: as of train; 1 if a run has failed.
"""

from absl import app, flags
from ml_collections import config_flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    cli.start()
    from train.guards import lock
    from train.ladder import run  # after the flags were read: importing JAX takes seconds

    f = flags.FLAGS
    if {"steps", "budget"} & config_flags.get_override_values(f["config"]).keys():
        cli.fail("--config.steps is given, and --tokens decides it in a ladder; leave it out")
    with lock.owned(f.workdir):
        if not run.run(**cli.run_arguments(), sizes=f.sizes, tokens=f.tokens, predict=f.predict):
            raise SystemExit(1)


if __name__ == "__main__":
    cli.define_flags()
    cli.define_run_flags()
    flags.DEFINE_list(
        "sizes", [], "The sizes to train, as tiny,1m or embed_dim=64,1m+num_layers=2."
    )
    flags.DEFINE_list(
        "tokens", ["20x"], "The tokens of a run of each size: 20x is 20 a parameter; or 1e9tokens."
    )
    flags.DEFINE_list(
        "predict", [], "What to predict: sizes, as 125m or 125m@40x; or compute, as 1e18flops."
    )
    app.run(lambda argv: cli.guarded(main, argv), flags_parser=cli.parse_flags)
