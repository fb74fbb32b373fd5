"""A small model trained by each value of `model.matmul`, from the same weights on the same rows.

    python -m benchmarks.quantized --text=input.txt --workdir=runs/quantized

Trains a character model, 4 layers and 256 wide, in bfloat16, on nine tenths of a text (nanoGPT's
tinyshakespeare in docs/benchmarks.md), and prints held-out losses beside those of the first value,
the reference. A finished run is not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags

from benchmarks import results
from configs import shakespeare
from model.config import MATMULS
from train import loop
from train.runtime.records import read_metrics

HELDOUT = 32_768  # characters
EVERY = 100  # steps between evaluations


def recipe(folder: Path, matmul: str, steps: int) -> ml_collections.ConfigDict:
    """The recipe of a run on the files of `split`."""
    config = shakespeare.get_config()
    config.model.update(
        dict(embed_dim=256, num_heads=4, num_kv_heads=4, head_dim=64, mlp_dim=704, scan_unroll=0)
    )
    config.model.dtype, config.model.matmul = "bfloat16", matmul
    config.data.source = str(folder / "train.txt")
    config.data.heldout_source = str(folder / "heldout.txt")
    config.data.length, config.data.batch_size = 129, 8
    config.steps, config.optimizer.warmup_steps = steps, 40
    config.evaluate.update(dict(every=EVERY, at_start=False, samples=0))
    config.log_every, config.checkpoint.every = 10, EVERY
    return config


def split(text: Path, folder: Path) -> None:
    """Writes train.txt, nine tenths of a text, and heldout.txt, the characters that follow."""
    content = text.read_text(encoding="utf-8")
    cut = len(content) * 9 // 10
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(content[:cut], encoding="utf-8")
    (folder / "heldout.txt").write_text(content[cut : cut + HELDOUT], encoding="utf-8")


def figures(workdir: Path) -> dict[str, Any]:
    """{`heldout`: [(step, loss)], `training`: [(step, loss)]} of a run."""
    return {
        name: [(r["step"], r["loss"]) for r in read_metrics(workdir, kind)]
        for name, kind in (("heldout", "eval"), ("training", "train"))
    }


def table(runs: Mapping[str, Mapping[str, Any]]) -> results.Table:
    """Losses by step; in parentheses as a multiple of the first run's."""

    def row(name: str, values: list[float]) -> list[str]:
        first, *others = values
        return [name, f"{first:.4f}", *(f"{v:.4f} ({v / first:.4f})" for v in others)]

    rows = [
        row(f"held out, step {points[0][0]:,}", [loss for _, loss in points])
        for points in zip(*(run["heldout"] for run in runs.values()), strict=True)
    ]
    last = [run["training"][-EVERY // 10 :] for run in runs.values()]
    means = [sum(loss for _, loss in points) / len(points) for points in last]
    rows.append(row(f"training, mean of the last {EVERY} steps", means))
    return results.Table(["nats a character", *runs], rows)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if unknown := set(given.matmul) - set(MATMULS):
        sys.exit(f"error: --matmul={unknown.pop()}: choose {', '.join(MATMULS)}")
    folder = Path(given.workdir)
    split(Path(given.text), folder)
    for matmul in given.matmul:
        loop.run(recipe(folder, matmul, given.steps), folder / matmul)
    runs = {matmul: figures(folder / matmul) for matmul in given.matmul}
    shape = "4 layers of 256, heads of 64, MLP of 704; 8 rows of 128 characters a step; AdamW, 1e-3"
    results.report(
        results.Result(
            benchmark="quantized",
            tables=[table(runs)],
            figures=runs,
            options=results.given() | {"model": shape, "dtype": "bfloat16"},
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("text", None, "A text file, such as tinyshakespeare's input.txt.")
    flags.DEFINE_string("workdir", None, "Folder of the runs.")
    flags.DEFINE_list("matmul", ["dtype", "int8"], "Values of model.matmul, the reference first.")
    flags.DEFINE_integer("steps", 400, "Steps of each run.", lower_bound=EVERY)
    flags.mark_flags_as_required(["text", "workdir"])
    results.define_flags()
    app.run(main)
