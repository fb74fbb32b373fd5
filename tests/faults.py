"""Makes every fault of the fault table in real processes, and prints what came of it.

    make faults
    python tests/faults.py --trials=50 --rows=1,4 --write=docs/reliability.md
    python tests/faults.py --soak=1800

Rows 2 and later take a fraction of the trials, which the table states. Needs Linux, and root for
the disk that is full (a file system in memory); without it row 6 is left out, and said to be.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "faults.json"  # the table's rows, of which a run may measure a part
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags  # noqa: E402
from fault_injection import soak, table  # noqa: E402
from fault_injection.lab import Lab  # noqa: E402

from benchmarks import pages  # noqa: E402


def main(argv: list[str]) -> int:
    del argv
    f = flags.FLAGS
    logging.disable(logging.CRITICAL)  # Orbax reports every flipped bit, at length
    directory = Path(f.directory or tempfile.mkdtemp(prefix="seedpod-faults-"))
    lab = Lab(directory, f.seed)

    def say(text: str) -> None:
        print(text, flush=True)

    if f.soak:
        result = soak.soak(lab, f.soak, f.soak_steps, say)
        name, content, held = "soak", soak.describe(result), result.exact
        say(content)
    else:
        say(" · ".join(table.HEADER))
        rows = table.measure(lab, f.trials, f.rows, say)
        name, held = "faults", all(row.held for row in rows)
        kept = json.loads(KEPT.read_text()) if f.write and KEPT.exists() else []
        cells = table.merged(kept, rows)
        content = table.markdown(cells)
        if f.write:
            KEPT.write_text(json.dumps(cells, indent=1, ensure_ascii=False) + "\n")
        say(content)
    if f.write:
        pages.write(f.write, name, content)
    return 0 if held else 1


if __name__ == "__main__":
    flags.DEFINE_integer("trials", 10, "Kills of one process; other faults are made less often.", 1)
    flags.DEFINE_list("rows", [], "Numbers of rows of the table; by default all.")
    flags.DEFINE_string("directory", "", "Where the runs are, and are found again; else temporary.")
    flags.DEFINE_integer("seed", 0, "Seed of the times and places of the faults.")
    flags.DEFINE_string("write", "", "Page into which the table is written, between its marks.")
    flags.DEFINE_integer("soak", 0, "Instead: seconds for which a supervised run is killed.", 0)
    flags.DEFINE_integer("soak_steps", 50000, "Steps of that run.", 1)
    app.run(main)
