"""Predicts whether a recipe fits a TPU slice, and how fast it will be, without the slice.

    python -m tpu.fit --config=configs/pretrain.py:size=llama3.1-8b --topology=v5p-128 \\
        --vocab_size=128256 --config.mesh.data=1 --config.mesh.fsdp=64 --config.data.length=8192

Compiles the step that `python -m train` runs with the TPU compiler; for PPO and GRPO also sampling,
scoring and the computation of the other inputs of an update from a rollout. `init_from` is not
read. Needs libtpu (`pip install 'jax[tpu]'`), no TPU, and 1 to 5 minutes on two cores. Exit code 1:
it does not fit, or gathers the weights of all layers at once. `--sweep=remat,mesh,batch` tries
other settings and tabulates them.
"""

import os

from absl import app, flags

from train import cli


def main(argv: list[str]) -> None:
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # without a TPU there is no metadata to query
    from tpu.fit import report

    f = flags.FLAGS
    with cli.expected_errors():
        fits = report.run(cli.config(), f.topology, f.slices, f.vocab_size, f.sweep, f.hlo, f.json)
    if not fits:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.define_config("A recipe, as configs/pretrain.py.")
    flags.DEFINE_string("topology", None, "The slice: v5e-256, v5p-128, v6e-256, or v5e:2x2.")
    flags.DEFINE_integer("slices", 1, "Number of slices; mesh.data runs between them.", 1, 4096)
    flags.DEFINE_integer("vocab_size", 32000, "Size of the tokenizer, which is not read.", 1, 2**24)
    flags.DEFINE_list("sweep", [], "Knobs to try, in this order: remat, mesh, batch.")
    flags.DEFINE_string("json", "", "Also write the report to this file.")
    flags.DEFINE_string("hlo", "", "Also write the optimized HLO to this file.")
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main, flags_parser=cli.parse_flags)
