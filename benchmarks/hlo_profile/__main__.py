"""The compiler's cycles of a train step by kind of operation and by source line.

python -m tpu.fit --config=configs/pretrain.py:size=125m --topology=v5e-16 --hlo=step.txt
python -m benchmarks.hlo_profile --hlo=step.txt --device='TPU v5 lite' --json=profile.json
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from benchmarks import results
from benchmarks.hlo_profile.profile import Cost, grouped, profile, table
from tpu.chips import CLOCK_GHZ, PEAK_FLOPS


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu would look for a TPU
    hertz = CLOCK_GHZ[f.device] * 1e9
    costs = profile(Path(f.hlo).read_text(), PEAK_FLOPS[f.device] / hertz)
    keys: dict[str, Callable[[Cost], str]] = {
        "kind": lambda c: c.kind,
        "function": lambda c: c.place.function or c.name,
        "line": lambda c: f"{c.kind} {c.place.line or c.name}",
        "instruction": lambda c: f"{c.kind} {c.place.line} {c.name} × {c.times}",
    }
    tables = [table(title, costs, key, hertz, f.rows) for title, key in keys.items()]
    seconds = {
        kind: sum(c.cycles for c in group) / hertz
        for kind, group in grouped(costs, keys["kind"]).items()
    }
    figures = {"seconds": seconds, "costs": [dataclasses.asdict(c) for c in costs]}
    results.report(results.Result("hlo_profile", tables, figures, results.given()))


if __name__ == "__main__":
    flags.DEFINE_string("hlo", None, "Optimized HLO that tpu.fit wrote.", required=True)
    flags.DEFINE_enum("device", "TPU v5p", list(CLOCK_GHZ), "The chip it was compiled for.")
    flags.DEFINE_integer("rows", 30, "Groups that a table names.", 1, 1000)
    results.define_flags()
    app.run(main)
