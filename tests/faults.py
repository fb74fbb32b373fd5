"""Makes every fault of the fault table in real processes, and prints what came of it.

    make faults
    python tests/faults.py --trials=50 --rows=1,4 --write=docs/reliability.md
    python tests/faults.py --soak=1800

Rows 2 and later take a fraction of the trials, which the table states. Needs Linux, and root for
the disk that is full (a file system in memory); without it row 6 is left out, and said to be.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags  # noqa: E402
from fault_injection import damage, flips, kills, soak, world  # noqa: E402
from fault_injection.lab import Lab, Row  # noqa: E402

from benchmarks import reliability  # noqa: E402

# (rows of the table, function of (lab, trials), its share of the trials, the least)
FAULTS: tuple[tuple[str, Callable, float, int], ...] = (
    ("1", kills.one_process, 1.0, 1),
    ("1", kills.two_processes, 0.4, 1),
    ("2 3", kills.signalled, 0.1, 1),
    ("4", damage.newest_damaged, 0.1, 1),
    ("4", flips.flips, 0.6, 2),
    ("5", damage.all_damaged, 0.08, 1),
    ("6", world.full_disk, 0.06, 1),
    ("7", damage.bad_data, 0.04, 1),
    ("8", world.numbers, 0.06, 1),
    ("9", world.other_mesh, 0.04, 1),
    ("10", world.changed_config, 0.02, 1),
    ("11", world.two_runs, 0.06, 1),
    ("12", kills.frozen, 0.06, 1),
    ("13", world.peers, 0.04, 1),
    ("14", world.hanging, 0.06, 1),
    ("15", damage.logs, 0.06, 1),
    ("15", world.evaluations, 0.06, 1),
)
HEADER = ("row", "fault", "trials", "survived", "exact", "steps lost", "seconds to recover")


def measure(lab: Lab, trials: int, numbers: Iterable[str], say: Callable[[str], None]) -> list[Row]:
    """The rows of the table, each printed when it is there."""
    rows, wanted = list[Row](), set(numbers)
    for covered, function, share, least in FAULTS:
        if wanted and wanted.isdisjoint(covered.split()):
            continue
        if function is world.full_disk and os.geteuid():
            say("row 6 is left out: a full disk needs root, to mount a small file system")
            continue
        begun = time.monotonic()
        made = function(lab, max(round(trials * share), least))
        for row in made if isinstance(made, list) else [made]:
            rows.append(row)
            say(" · ".join(cells(row)))
            for note in row.notes[:2]:
                say("    " + note.replace("\n", "\n    "))
        say(f"    ({time.monotonic() - begun:.0f} s)")
    return sorted(rows, key=lambda row: int(row.number))


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row."""
    seconds = sorted(row.seconds)
    middle = f"{seconds[len(seconds) // 2]:.1f}, at most {seconds[-1]:.1f}" if seconds else "–"
    exact = "–" if row.exact is None else str(row.exact)
    lost = "–" if row.lost is None else f"≤ {row.lost}"
    held = str(row.survived)
    return row.number, row.fault, str(row.trials), held, exact, lost, middle


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


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
        say(" · ".join(HEADER))
        rows = measure(lab, f.trials, f.rows, say)
        name, content, held = "faults", table(rows), all(row.held for row in rows)
        say(content)
    if f.write:
        reliability.write(f.write, name, content)
    return 0 if held else 1


if __name__ == "__main__":
    flags.DEFINE_integer("trials", 10, "Kills of one process; other faults are made less often.", 1)
    flags.DEFINE_list("rows", [], "Numbers of rows of the table; by default all.")
    flags.DEFINE_string("directory", "", "Where the runs are, and are found again; else temporary.")
    flags.DEFINE_integer("seed", 0, "Seed of the times and places of the faults.")
    flags.DEFINE_string("write", "", "Page into which the table is written, between its marks.")
    flags.DEFINE_integer("soak", 0, "Instead: seconds for which a supervised run is killed.", 0)
    flags.DEFINE_integer("soak_steps", 20000, "Steps of that run.", 1)
    app.run(main)
