"""The faults of the fault table, and the table of what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

from fault_injection import damage, disks, flips, inside, kills, others
from fault_injection.lab import Lab, Row

# (rows of the table, function of (lab, trials), its share of the trials, the least)
FAULTS: tuple[tuple[str, Callable, float, int], ...] = (
    ("1", kills.one_process, 1.0, 1),
    ("1", kills.two_processes, 0.4, 1),
    ("2 3", kills.signalled, 0.1, 1),
    ("4", damage.newest_damaged, 0.1, 1),
    ("4", flips.flips, 0.6, 2),
    ("5", damage.all_damaged, 0.08, 1),
    ("6", disks.full_disk, 0.06, 1),
    ("7", damage.bad_data, 0.04, 1),
    ("8", inside.numbers, 0.06, 1),
    ("9", others.other_mesh, 0.04, 1),
    ("10", others.changed_config, 0.02, 1),
    ("11", others.two_runs, 0.06, 1),
    ("12", kills.frozen, 0.06, 1),
    ("13", others.peers, 0.04, 1),
    ("14", inside.hanging, 0.06, 1),
    ("15", damage.logs, 0.06, 1),
    ("15", inside.evaluations, 0.06, 1),
)
HEADER = ("row", "fault", "trials", "survived", "exact", "steps lost", "seconds to recover")


def measure(lab: Lab, trials: int, numbers: Iterable[str], say: Callable[[str], None]) -> list[Row]:
    """The rows of the table, each printed when it is there."""
    rows, wanted = list[Row](), set(numbers)
    for covered, function, share, least in FAULTS:
        if wanted and wanted.isdisjoint(covered.split()):
            continue
        if function is disks.full_disk and os.geteuid():
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


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """The `cells` of rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def merged(kept: Iterable[Sequence[str]], rows: Iterable[Row]) -> list[Sequence[str]]:
    """The `cells` of all rows, those of an earlier run replaced by those of the same fault."""
    faults = {(cell[0], cell[1]): cell for cell in kept} | {
        (r.number, r.fault): cells(r) for r in rows
    }
    return sorted(faults.values(), key=lambda cell: int(cell[0]))
