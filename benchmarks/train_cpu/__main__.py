"""Training on this CPU beside PyTorch: tokens a second, and the time to a held-out loss of 1.88.

    python -m benchmarks.train_cpu
    python -m benchmarks.train_cpu --text=input.txt --loss --json=docs/benchmarks/train_cpu.json
    sh benchmarks/other_env.sh runs/other_env torch==2.13.0
    python -m benchmarks.train_cpu --other_python=runs/other_env/bin/python

Ours is `python -m train` as typed, of configs/shakespeare.py with the shape's settings; the other
side is a GPT-2 of nanoGPT's form with nanoGPT's loop, in PyTorch eager (torch_side.py), run by
`--other_python`, by default the Python that runs this. Both compute in float32 on all cores
that the process may use (`taskset -c 0` before the command leaves one), with the same rows of
characters, batch, optimizer and clipping, and no dropout; race.py has the method. A turn is a
whole process. `--text` is a text of which the last tenth is held out, by default the sample of
examples/shakespeare.

With `--loss` also: nanoGPT's own recipe for a CPU (4 layers, 128 wide, a context of 64, 12 rows,
2,000 steps, 1e-3) and `configs/shakespeare.py:quick`, each from the start of its process to the
held-out loss after its last step, scored on the whole held-out text.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import results, turns
from benchmarks.train_cpu import race

SAMPLE = Path(__file__).parents[2] / "examples" / "shakespeare"
NANOGPT = dataclasses.replace(race.SHAPES["4x128"], steps=2000, log_every=10)


def split(text: str, folder: Path) -> race.Texts:
    """The files of a text, whose last tenth is held out, as nanoGPT divides it."""
    if not text:
        return race.Texts(str(SAMPLE / "train.txt"), str(SAMPLE / "val.txt"))
    content = Path(text).read_text(encoding="utf-8")
    cut = int(len(content) * 0.9)
    files = folder / "train.txt", folder / "val.txt"
    for file, part in zip(files, (content[:cut], content[cut:]), strict=True):
        file.write_text(part, encoding="utf-8")
    return race.Texts(*map(str, files))


SIDES = {
    "PyTorch": {
        "precision": "float32",
        "allocator": "as the process inherits it",
        "execution": "eager (no torch.compile), scaled_dot_product_attention",
        "model": "GPT-2: LayerNorm, GELU, learned positions",
        "optimizer": "AdamW, b2 0.99, decay 0.1 of matrices, gradients clipped at 1",
    },
    "ours": {
        "precision": "float32",
        "allocator": "what `python -m train` sets (`keep_memory` in model/cpu.py)",
        "execution": "compiled by XLA, layers unrolled, no remat",
        "model": "Llama: RMSNorm, gated MLP, rotary positions; as many weights",
        "optimizer": "the same",
    },
}
SPEED = ("layers × width", "PyTorch, tokens/s", "`python -m train`, tokens/s", "ratio",
         "ratio of tokens a processor second")  # fmt: skip
LOSS = ("", "steps", "held-out loss, nats a character", "seconds of the process",
        "of the processor")  # fmt: skip

Turns = Mapping[str, Sequence[race.Turn]]


def speed_row(name: str, measured: Turns) -> list[str]:
    """The cells of a shape."""
    speed, used = (
        {side: [t.tokens / getattr(t, field) for t in own] for side, own in measured.items()}
        for field in ("seconds", "processor_seconds")
    )
    ratios = [turns.spread(turns.ratios(x, "ours", "PyTorch"), 2) for x in (speed, used)]
    cells = [turns.spread(speed[side]) for side in ("PyTorch", "ours")]
    return [name, *cells, f"**{ratios[0]}**", ratios[1]]


def loss_rows(measured: Turns) -> list[list[str]]:
    """The cells of both recipes, and ours as a share of PyTorch's within a turn."""
    names = {"PyTorch": "nanoGPT's recipe", "ours": "`configs/shakespeare.py:quick`"}
    fields = ("whole", "whole_processor")
    used = {f: {side: [getattr(t, f) for t in own] for side, own in measured.items()}
            for f in fields}  # fmt: skip
    rows = [
        [names[side], f"{own[0].last_step:,}", turns.spread([t.loss for t in own], 3)]
        + [turns.spread(used[f][side], 1) for f in fields]
        for side, own in measured.items()
    ]
    shares = [turns.spread(turns.ratios(used[f], "ours", "PyTorch"), 2) for f in fields]
    return [*rows, ["ours / PyTorch", "", "", *shares]]


def measured(
    commands: Mapping[str, Callable[[Path], list[str]]], folder: Path, tokens: int, rounds: int
) -> dict[str, list[race.Turn]]:
    """{side: its turns} of commands in folders of their own; a first turn of each, which fills
    caches, is not counted. `tokens`: those of a step."""

    def side(name: str) -> Callable[[int], race.Turn]:
        def turn(number: int) -> race.Turn:
            workdir = folder / f"{name}-{number}"
            took = race.measure(commands[name](workdir), workdir, tokens)
            print(f"{name}: {took.tokens / took.seconds:,.0f} tokens/s, {took.whole:.1f} s in all",
                  file=sys.stderr, flush=True)  # fmt: skip
            return took

        return turn

    return turns.race({name: side(name) for name in commands}, rounds)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    figures, rows = dict[str, Any](), []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        texts = split(given.text, folder)
        for name in given.shapes:
            shape = race.SHAPES[name]
            commands = {
                "PyTorch": race.theirs(given.other_python, shape, texts),
                "ours": race.ours(shape, texts),
            }
            tokens = shape.batch * shape.context
            speed = measured(commands, folder / name, tokens, given.rounds)
            rows.append(speed_row(str(shape), speed))
            figures[name] = {s: [dataclasses.asdict(t) for t in own] for s, own in speed.items()}
        tables = [results.Table(SPEED, rows)]
        if given.loss:
            commands = {
                "PyTorch": race.theirs(given.other_python, NANOGPT, texts, evaluate=True),
                "ours": race.quick(texts),
            }
            tokens = NANOGPT.batch * NANOGPT.context
            loss = measured(commands, folder / "loss", tokens, given.loss_rounds)
            tables.append(results.Table(LOSS, loss_rows(loss)))
            figures["loss"] = {s: [dataclasses.asdict(t) for t in own] for s, own in loss.items()}
        about = json.loads(next(folder.rglob("about.json")).read_text())
    for settings in SIDES.values():
        settings["threads"] = f"{about['threads']}, all cores, by default"
    versions = {"torch": about["torch"]}
    result = results.Result("train_cpu", tables, figures, results.given(), SIDES, versions)
    results.report(result)


if __name__ == "__main__":
    flags.DEFINE_multi_enum("shapes", list(race.SHAPES), list(race.SHAPES), "Shapes to race.")
    flags.DEFINE_integer("rounds", 5, "Rounds of each side that count.", lower_bound=1)
    flags.DEFINE_string("text", "", "A text file; empty: the sample that ships.")
    flags.DEFINE_bool("loss", False, "Measure the time to a held-out loss too.")
    flags.DEFINE_integer("loss_rounds", 3, "Rounds of that measurement that count.", lower_bound=1)
    flags.DEFINE_string("other_python", sys.executable, "A Python that has torch.")
    results.define_flags()
    app.run(main)
