"""The compiler's cycles of a train step by kind of operation and by source line.

python -m tpu.fit --config=configs/pretrain.py:size=125m --topology=v5e-16 --hlo=step.txt
python -m benchmarks.hlo_profile --hlo=step.txt --device='TPU v5 lite' --json=profile.json
"""

import collections
import dataclasses
import json
from pathlib import Path

from absl import app, flags

from benchmarks.hlo_profile.profile import grouped, profile, table
from tpu.chips import CLOCK_GHZ, PEAK_FLOPS


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    hertz = CLOCK_GHZ[f.device] * 1e9
    costs = profile(Path(f.hlo).read_text(), PEAK_FLOPS[f.device] / hertz)
    for title, key in {
        "by kind": lambda c: c.kind,
        "by function": lambda c: c.place.function or c.name,
        "by line": lambda c: f"{c.kind:11} {c.place.line or c.name}",
        "by instruction": lambda c: f"{c.kind:11} {c.place.line} {c.name} × {c.times}",
    }.items():
        print("\n".join([f"\n{title}", *table(costs, key, hertz, f.rows)]))
    if f.json:
        seconds: dict[str, float] = collections.defaultdict(float)
        for kind, group in grouped(costs, lambda c: c.kind).items():
            seconds[kind] = sum(c.cycles for c in group) / hertz
        report = {"seconds": seconds, "costs": [dataclasses.asdict(c) for c in costs]}
        Path(f.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    flags.DEFINE_string("hlo", None, "Optimized HLO that tpu.fit wrote.", required=True)
    flags.DEFINE_enum("device", "TPU v5p", list(CLOCK_GHZ), "The chip it was compiled for.")
    flags.DEFINE_integer("rows", 30, "Groups that a table names.", 1, 1000)
    flags.DEFINE_string("json", "", "Also write all costs to this file.")
    app.run(main)
