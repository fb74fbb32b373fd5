"""Predicts whether a recipe fits a TPU slice, how fast it will be and what it costs, without the
slice.

    python -m tpu.fit --config=configs/pretrain.py:size=llama3.1-8b --topology=v5p-128 \\
        --vocab_size=128256 --config.mesh.data=1 --config.mesh.fsdp=64 --config.data.length=8192
    python -m tpu.fit --config=configs/pretrain.py:size=125m --topology=v5e-4,v5e-8,v6e-4 \\
        --steps=20x --price=docs/prices.toml --deadline=48
    python -m tpu.fit --workdir=runs/first --price=docs/prices.toml

Compiles the step that `python -m train` runs with the TPU compiler; for PPO and GRPO also sampling,
scoring and the computation of the other inputs of an update from a rollout. `init_from` is not
read. Needs libtpu (`pip install 'jax[tpu]'`), no TPU, and 1 to 5 minutes on two cores. Exit code 1:
it does not fit, gathers the weights of all layers at once, or misses the deadline.
`--sweep` searches for the fastest rematerialization, mesh, rows a step and attention blocks,
except those that are typed, tabulates what it compiled, some ten programs, and reports the best.
With `--workdir` a run that there is stands beside its prediction.
"""

import os

from absl import app, flags
from ml_collections import config_flags

from train import cli

FLAGS = ("workdir", "topology", "slices", "vocab_size", "steps", "sweep", "price", "goodput",
         "deadline", "hlo", "json")  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # without a TPU there is no metadata to query
    from tpu.fit import command

    f = flags.FLAGS
    typed = config_flags.get_override_values(f["config"]) if f.config else {}
    if f.steps and "steps" in typed:
        cli.fail("--steps and --config.steps both say how long the run is; give one of them")
    with cli.expected_errors():
        values = {name: f[name].value for name in FLAGS} | {"typed": typed.keys()}
        if not command.from_flags(values, cli.config() if f.config else None):
            raise SystemExit(1)


if __name__ == "__main__":
    cli.define_config("A recipe, as configs/pretrain.py.")
    flags.DEFINE_list("topology", [], "The slice: v5e-256, v5p-128, v6e-256, v5e:2x2; or several.")
    flags.DEFINE_integer("slices", 1, "Number of slices; mesh.data runs between them.", 1, 4096)
    flags.DEFINE_integer("vocab_size", 32000, "Size of the tokenizer, which is not read.", 1, 2**24)
    flags.DEFINE_string("steps", "", "Length of the run: a number, or a budget such as 20x.")
    flags.DEFINE_string("price", "", "A file with dollars a chip-hour, as docs/prices.toml.")
    flags.DEFINE_float("deadline", None, "Hours in which the run must end.", 1e-6, 1e6)
    flags.DEFINE_float("goodput", 0.9, "Share of the time that goes into steps.", 0.01, 1)
    flags.DEFINE_string("workdir", "", "A run, to show what it took beside its prediction.")
    flags.DEFINE_bool("sweep", False, "Search for the fastest remat, mesh, rows and blocks.")
    flags.DEFINE_string("json", "", "Also write the report to this file.")
    flags.DEFINE_string("hlo", "", "Also write the optimized HLO to this file.")
    app.run(main, flags_parser=cli.parse_flags)
