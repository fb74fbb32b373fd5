"""Rows 4, 5, 7, 15: files that are damaged or gone."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fault_injection.files import largest
from fault_injection.lab import EVERY, STAGES, STEPS, Lab, Row, has_saved, same, weights

ITEMS = {"policy": ("policy",), "optimizer": ("opt_state",), "source": ("source",)}


def data_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, or of an item of it, that are not empty."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def truncate(checkpoint: Path, rng: random.Random) -> None:
    path = rng.choice(data_files(checkpoint))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(rng.randrange(size))


def remove_file(checkpoint: Path, rng: random.Random) -> None:
    rng.choice(data_files(checkpoint)).unlink()


def empty_file(checkpoint: Path, rng: random.Random) -> None:
    rng.choice(data_files(checkpoint)).write_bytes(b"")


def empty_folder(checkpoint: Path, rng: random.Random) -> None:
    del rng
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def flip_bit(checkpoint: Path, rng: random.Random) -> tuple[Path, int]:
    """Flips a bit of a checkpoint's or an item's files, every bit as likely; returns where."""
    files = data_files(checkpoint)
    (path,) = rng.choices(files, [path.stat().st_size for path in files])
    position = rng.randrange(path.stat().st_size * 8)
    toggle(path, position)
    return path, position


def toggle(path: Path, position: int) -> None:
    """Flips the bit at a position of a file."""
    with path.open("r+b") as file:
        file.seek(position // 8)
        (byte,) = file.read(1)
        file.seek(position // 8)
        file.write(bytes([byte ^ 1 << position % 8]))


def ruin(checkpoint: Path, rng: random.Random) -> None:
    """Truncates, empties or removes the file of a checkpoint that has most of the optimizer state,
    so that it cannot be restored."""
    path = largest(checkpoint / "opt_state")
    match rng.randrange(3):
        case 0:
            os.truncate(path, path.stat().st_size // 2)
        case 1:
            path.write_bytes(b"")
        case 2:
            path.unlink()


DAMAGE: dict[str, Callable] = {
    "truncated": truncate,
    "a file missing": remove_file,
    "a file emptied": empty_file,
    "an empty directory": empty_folder,
    "one bit flipped": flip_bit,
}


def newest_damaged(lab: Lab, trials: int) -> list[Row]:
    """The newest checkpoint of a finished stage is damaged: it is trained again from the one
    before."""
    rows = []
    for kind, damage in DAMAGE.items():
        rows.append(row := Row("4", f"newest checkpoint: {kind}"))
        for trial in range(trials):
            stage = STAGES[trial % len(STAGES)]
            workdir = lab.trained(stage)
            damage(workdir / "checkpoints" / str(STEPS), lab.rng)
            begun = time.monotonic()
            process = lab.start(workdir, stage)
            code, output = process.wait(), process.output
            # Damage to a file that is not read, as of Orbax's own records, harms nothing.
            exact = code == 0 and same(workdir, lab.reference / stage)
            row.add(code == 0, exact, EVERY, time.monotonic() - begun, output)
            shutil.rmtree(workdir)
    return rows


def all_damaged(lab: Lab, trials: int) -> list[Row]:
    """Every checkpoint is damaged, or all are gone: exit 1, and nothing is begun anew."""
    rows = [Row("5", "every checkpoint bad"), Row("5", "all checkpoints gone, logs there"),
            Row("5", "the folder of checkpoints gone")]  # fmt: skip
    for trial in range(trials):
        for row in rows:
            stage = STAGES[trial % len(STAGES)]
            workdir = lab.trained(stage)
            checkpoints = workdir / "checkpoints"
            steps = [path for path in checkpoints.iterdir() if path.name.isdigit()]
            metrics = (workdir / "metrics.jsonl").read_bytes()
            for path in steps:
                if row is rows[0]:
                    ruin(path, lab.rng)
                else:
                    shutil.rmtree(path)
            if row is rows[2]:
                shutil.rmtree(checkpoints)
            process = lab.start(workdir, stage)
            code, output = process.wait(), process.output
            named = row is not rows[0] or all(path.name in output for path in steps)
            untouched = (workdir / "metrics.jsonl").read_bytes() == metrics
            good = code == 1 and named and untouched and "Traceback" not in output
            row.add(good, note=f"exit {code}: {output}")
            shutil.rmtree(workdir)
    return rows


def bad_data(lab: Lab, trials: int) -> list[Row]:
    """A malformed line of a data file: an error with file and line, or a counted skip."""
    rows = [Row("7", "malformed line: refused"), Row("7", "malformed line: skipped, counted")]
    lines = (lab.directory / "chats.jsonl").read_text().splitlines()
    for trial in range(trials):
        number = lab.rng.randrange(1, len(lines))
        bad = lab.directory / f"bad-{trial}.jsonl"
        broken = lines[number][: len(lines[number]) // 2]
        bad.write_text("\n".join([*lines[:number], broken, *lines[number + 1 :]]) + "\n")
        process = lab.start(lab.new("bad"), "sft", f"--config.data.source={bad}")
        code = process.wait()
        named = f"{bad.name}:{number + 1}" in process.output
        rows[0].add(code == 1 and named, note=f"exit {code}: {process.output}")
        workdir, flags = (
            lab.new("skip"),
            (f"--config.data.source={bad}", "--config.data.on_bad=skip"),
        )
        process = lab.start(workdir, "sft", *flags)
        process.until(has_saved(workdir, EVERY))
        process.kill()
        process.wait()
        first = process.output
        whole = lab.new("skip-whole")
        lab.finish(lab.start(whole, "sft", *flags))
        resumed = lab.start(workdir, "sft", *flags)
        code = resumed.wait()
        exact = code == 0 and same(workdir, whole)
        rows[1].add(
            "passed over 1 examples" in first and code == 0, exact, note=first + resumed.output
        )
    return rows


def logs(lab: Lab, trials: int) -> list[Row]:
    """A damaged line in metrics.jsonl, and a metrics file that cannot be written."""
    rows = [Row("15", "a damaged line in metrics.jsonl"), Row("15", "metrics.jsonl is a folder")]
    for _ in range(trials):
        workdir = lab.trained("sft")
        shutil.move(workdir / "checkpoints" / str(STEPS), lab.new("moved"))
        path = workdir / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        number = lab.rng.randrange(1, len(lines) - 8)
        lines[number] = lab.rng.choice(
            (b"\x00\xff" * 40 + b"\n", b"{]\n", b'"a"\n', b"\n", lines[1][:9] + b"\n")
        )
        path.write_bytes(b"".join(lines))
        process = lab.start(workdir, "sft")
        code = process.wait()
        exact = code == 0 and _final(workdir) == _final(lab.reference / "sft")
        rows[0].add(code == 0, exact, note=process.output)

        workdir = lab.new("folder")
        (workdir / "metrics.jsonl").mkdir(parents=True)
        process = lab.start(workdir, "sft")
        code = process.wait()
        exact = code == 0 and weights(workdir) == weights(lab.reference / "sft")
        rows[1].add(code == 0 and "metrics.jsonl" in process.output, exact, note=process.output)
    return rows


def _final(workdir: Path) -> list[float]:
    """The losses of the last steps, which are taken after the damage."""
    records = []
    for line in (workdir / "metrics.jsonl").read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") == "train":
            records.append(record)
    return [r["loss"] for r in records if r["step"] > STEPS - EVERY]
