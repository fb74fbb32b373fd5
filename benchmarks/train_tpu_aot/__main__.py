"""Our train step compiled for TPU slices, beside MaxText's programs: writes docs/fit.md.

    python -m benchmarks.train_tpu_aot        # compiles the steps that docs/fit.json lacks
    python -m benchmarks.train_tpu_aot --only='Llama 3.1 8B, v6e-256' --fresh

Needs libtpu, no TPU. Prints both sides' figures, with the same compiler options, and the options.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import app

from benchmarks import compiled, results
from benchmarks.train_tpu_aot import anchors, document


def main(argv: Sequence[str]) -> None:
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu would look for a TPU
    runs = {name: run.arguments for name, run in anchors.RUNS.items()}
    reports = compiled.write("fit", runs, document.row, document.document)
    results.report(document.result(reports))


if __name__ == "__main__":
    compiled.define_flags()
    results.define_flags()
    app.run(main)
