"""Training on this CPU beside PyTorch: tokens a second, and the time to a held-out loss of 1.88.

    python -m benchmarks.train_cpu
    python -m benchmarks.train_cpu --text=input.txt --loss --json=train_cpu.json --write
    sh benchmarks/other_env.sh runs/other_env torch==2.13.0
    python -m benchmarks.train_cpu --other_python=runs/other_env/bin/python

Ours is `python -m train --config=configs/shakespeare.py` as typed, with the shape's settings; the
other side is a GPT-2 of nanoGPT's form with nanoGPT's loop, in PyTorch eager (torch_side.py), run
by `--other_python`, by default the Python that runs this. Both compute in float32 on all cores
that the process may use (`taskset -c 0` before the command leaves one), with the same rows of
characters, batch, optimizer and clipping, and no dropout; race.py has the method. `--text` is a
text of which the last tenth is held out, by default the sample of examples/shakespeare.

With `--loss` also: nanoGPT's own recipe for a CPU (4 layers, 128 wide, a context of 64, 12 rows,
2,000 steps, 1e-3) and `configs/shakespeare.py:quick`, each from the start of its process to the
held-out loss after its last step, scored on the whole held-out text. `--write` writes the tables
into docs/benchmarks.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import pages
from benchmarks.train_cpu import race

NANOGPT = replace(race.SHAPES["4x128"], steps=2000, log_every=10)


def split(text: str, folder: Path) -> race.Texts:
    """The files of a text, whose last tenth is held out, as nanoGPT divides it."""
    if not text:
        sample = pages.ROOT / "examples" / "shakespeare"
        return race.Texts(str(sample / "train.txt"), str(sample / "val.txt"))
    content = Path(text).read_text(encoding="utf-8")
    cut = int(len(content) * 0.9)
    files = folder / "train.txt", folder / "val.txt"
    for file, part in zip(files, (content[:cut], content[cut:]), strict=True):
        file.write_text(part, encoding="utf-8")
    return race.Texts(*map(str, files))


def section(result: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    lines = [
        f"`python -m benchmarks.train_cpu` wrote this on {result['machine']}; PyTorch "
        f"{result['torch']['torch']} with {result['torch']['threads']} threads, eager (no "
        "`torch.compile`). Medians of turns and their range; ratios are taken within a turn.",
        "",
        "| layers × width, rows | nanoGPT in PyTorch, tokens/s | `python -m train`, tokens/s | "
        "ratio | ratio of tokens a processor second |",
        "|---|---|---|---|---|",
        *(race.speed_row(str(race.SHAPES[name]), turns) for name, turns in result["speed"].items()),
    ]
    if "loss" in result:
        lines += [
            "",
            "| | steps | held-out loss, nats a character | seconds of the whole process | of the "
            "processor |",
            "|---|---|---|---|---|",
            *race.loss_rows(result["loss"]),
        ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    result: dict[str, Any] = {"machine": pages.machine(), "speed": {}}

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = split(given.text, folder)
        for name in given.shapes:
            shape = race.SHAPES[name]
            commands = {
                "torch": race.theirs(given.other_python, shape, texts),
                "ours": race.ours(shape, texts),
            }
            tokens = shape.batch * shape.context
            turns = race.race(commands, folder / name, tokens, given.turns, say)
            result["speed"][name] = turns
        if given.loss:
            commands = {
                "torch": race.theirs(given.other_python, NANOGPT, texts, evaluate=True),
                "ours": race.quick(texts),
            }
            tokens = NANOGPT.batch * NANOGPT.context
            result["loss"] = race.race(commands, folder / "loss", tokens, given.loss_turns, say)
        result["torch"] = json.loads(next(folder.rglob("about.json")).read_text())
    text = section(result)
    print(text)
    if given.json:
        Path(given.json).write_text(json.dumps(result) + "\n")
    if given.write:
        pages.write("benchmarks.train_cpu", text)


if __name__ == "__main__":
    flags.DEFINE_multi_enum("shapes", list(race.SHAPES), list(race.SHAPES), "Shapes to race.")
    flags.DEFINE_integer("turns", 5, "Turns of each side that count.", lower_bound=1)
    flags.DEFINE_string("text", "", "A text file; empty: the sample that ships.")
    flags.DEFINE_bool("loss", False, "Measure the time to a held-out loss too.")
    flags.DEFINE_integer("loss_turns", 3, "Turns of that measurement that count.", lower_bound=1)
    flags.DEFINE_string("other_python", sys.executable, "A Python that has torch.")
    flags.DEFINE_string("json", "", "Write the measurements here as JSON.")
    flags.DEFINE_bool("write", False, "Write the tables into docs/benchmarks.md.")
    app.run(main)
