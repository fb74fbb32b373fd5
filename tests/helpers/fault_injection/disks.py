"""Row 6: a disk that is really full, a small file system in memory. Needs root."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from fault_injection.lab import (
    EVERY,
    STEPS,
    Lab,
    Row,
    at_step,
    has_saved,
    newest,
    resumed_at,
    same,
)
from local_runs import last_step


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory of so many megabytes."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the space that is left in a file system."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return path


def full_disk(lab: Lab, trials: int) -> list[Row]:
    """A disk that is full for a second; until after the run gave up; and only that of the logs."""
    rows = [Row("6", "disk full for a second"), Row("6", "disk full until the run gave up"),
            Row("6", "only the logs' disk full")]  # fmt: skip
    for number in range(trials):
        _for_a_second(lab, rows[0])
        if number % 3 == 0:  # it takes two minutes to give up
            _for_long(lab, rows[1])
        _of_logs(lab, rows[2])
    return rows


def _for_a_second(lab: Lab, row: Row) -> None:
    with small_disk(lab.new("disk"), 64) as disk:
        workdir = disk / "run"
        process = lab.start(workdir, "sft")
        process.until(at_step(workdir, lab.rng.randrange(EVERY, STEPS - 2 * EVERY)))
        filler = fill(disk)
        time.sleep(1)
        filler.unlink()
        code = process.wait()
        exact = code == 0 and same(workdir, lab.reference / "sft")
        row.add(code == 0, exact, note=f"exit {code}: {process.output}")


def _for_long(lab: Lab, row: Row) -> None:
    with small_disk(lab.new("disk"), 64) as disk:
        workdir = disk / "run"
        process = lab.start(workdir, "sft")
        process.until(has_saved(workdir, EVERY))
        filler = fill(disk)
        code, kept, at = process.wait(), newest(workdir), last_step(workdir)
        filler.unlink()
        begun = time.monotonic()
        resumed = lab.start(workdir, "sft")
        exact = resumed.wait() == 0 and same(workdir, lab.reference / "sft")
        # Neither success nor an error that a supervisor would take for final.
        good = code not in (0, 1) and kept >= EVERY and resumed_at(resumed.output) >= kept
        note = f"exit {code}: {process.output}\n{resumed.output}"
        row.add(good, exact, max(at - kept, 0), time.monotonic() - begun, note)


def _of_logs(lab: Lab, row: Row) -> None:
    with small_disk(lab.new("disk"), 1) as disk:
        workdir, elsewhere = disk / "run", lab.new("elsewhere")
        workdir.mkdir()
        elsewhere.mkdir()
        (workdir / "checkpoints").symlink_to(elsewhere)
        fill(disk)
        process = lab.start(workdir, "sft")
        code = process.wait()
        saved = max((int(p.name) for p in elsewhere.iterdir() if p.name.isdigit()), default=0)
        row.add(code == 0 and saved == STEPS, note=f"exit {code}: {process.output}")
