"""Loading and preparing, side by side with Hugging Face `datasets` and Grain's own loader.

    sh benchmarks/other_env.sh DIR datasets==5.2.0 sentencepiece
    python -m benchmarks.data --other_python=DIR/bin/python

The corpus is the documentation of the running Python, several times over with other numbers in it,
as JSON lines. The competitors take turns, in the other order at every second round; what counts is
the median of the ratios within a round.

- prepare: data.prepare beside `datasets.map` with the same tokenizer and as many processes, which
  tokenizes, concatenates, splits, and saves.
- load: shuffled batches of packed rows (ids, positions, segments, mask), ours from prepared shards,
  as such a small set is read (held in memory) and as a large one is (record by record); those of
  `datasets` from the same four columns, saved and shuffled: lists as they come, made into
  arrays; with_format("numpy"); and the same over columns declared to be of one length, its fastest
  way. That reads uncompressed arrays from memory, as ours does for data tokenized on the fly, so it
  is compared with that too.
- grain: the same beside a Grain `MapDataset` over the same ArrayRecords that parses each row and
  batches.
- first batch: seconds from opening the folder. memory: growth from batch 1,000 to 100,000.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import results, turns, workers
from benchmarks.data import race
from data.text.tokenizer import load

WORKER = Path(__file__).with_name("datasets_side.py")
# {side: which of datasets_side.py's}
KINDS = {
    "datasets, lists made into arrays": "lists",
    'datasets, with_format("numpy")': "numpy",
    "datasets, the same, columns of fixed length": "fixed",
}
GRAIN = "Grain's MapDataset over the same records"
OURS = ("ours", "ours, as of a large set", "ours, tokenized on the fly")


def prepare(folder: str, source: str, python: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of preparing, each side's of every round."""

    def ours(number: int) -> float:
        del number
        return race.ours_prepare(source, f"{folder}/ours", f"{folder}/first", 2)

    def theirs(number: int) -> float:
        del number
        model = f"{folder}/first/tokenizer/tokenizer.model"
        words = ["prepare", source, model, f"{folder}/hf", str(race.LENGTH), "2"]
        return workers.run([python, WORKER, *words])

    sides = {"ours": ours} | ({"datasets.map, save_to_disk": theirs} if python else {})
    return turns.race(sides, rounds, warm=0)


def loading(folder: str, tokenizer: Any, python: str, rounds: int) -> dict[str, list[float]]:
    """Tokens a second of loading, each side's of every round."""
    prepared, steps = f"{folder}/ours", race.STEPS
    loaders: dict[str, Callable] = {
        OURS[0]: lambda: race.open_ours(prepared, tokenizer).iterate(0, steps + 10),
        OURS[1]: lambda: race.open_as_large(prepared).iterate(0, steps + 10),
        OURS[2]: lambda: race.open_in_memory(prepared).iterate(0, steps + 10),
        GRAIN: lambda: race.grain_batches(prepared),
    }

    def ours(opened: Callable, number: int) -> float:
        del number
        return race.rate(opened(), steps)

    def theirs(kind: str, number: int) -> float:
        del number
        arrays = [f"{folder}/rows.npy", f"{folder}/segments.npy"]
        return workers.run([python, WORKER, "load", *arrays, str(race.BATCH), str(steps), kind])

    sides = {name: partial(ours, opened) for name, opened in loaders.items()}
    if python:
        sides |= {name: partial(theirs, kind) for name, kind in KINDS.items()}
    return turns.race(sides, rounds, warm=0)


def compared(preparing: dict[str, list[float]], rates: dict[str, list[float]]) -> results.Table:
    """A row for each pair of sides: figures, and how many times ours is as fast."""
    rows = []
    for other in [name for name in preparing if name != "ours"]:
        cells = [turns.spread(preparing[name], 2) for name in ("ours", other)]
        ratio = turns.ratio(preparing, other, "ours")  # seconds: theirs to ours
        rows.append(["preparing, s", cells[0], f"{other}: {cells[1]}", f"{ratio:.2f}"])
    millions = {name: [rate / 1e6 for rate in values] for name, values in rates.items()}
    others = {name: [n for n in (GRAIN, *KINDS) if n in rates] for name in OURS[:2]}
    others[OURS[2]] = [n for n in KINDS if n in rates][-1:]
    for mine, names in others.items():
        for number, other in enumerate(names):
            ours = turns.spread(millions[mine], 1) if not number else ""
            cells = [f"loading ({mine}), million tokens/s" if not number else "", ours]
            cells.append(f"{other}: {turns.spread(millions[other], 1)}")
            rows.append([*cells, f"{turns.ratio(millions, mine, other):.3g}"])
    return results.Table(("", "ours", "beside", "ratio"), rows)


def main(argv: Sequence[str]) -> None:
    del argv
    python, rounds = flags.FLAGS.other_python, flags.FLAGS.rounds
    versions = {"grain": metadata.version("grain")}
    versions |= workers.run([python, WORKER, "versions"]) if python else {}
    with tempfile.TemporaryDirectory() as folder:
        source = race.write_corpus(f"{folder}/corpus", flags.FLAGS.copies)
        race.prepare_first(source, f"{folder}/first")
        preparing = prepare(folder, source, python, rounds)
        rows = race.write_arrays(f"{folder}/ours", folder)
        tokenizer = load(f"{folder}/first")
        rates = loading(folder, tokenizer, python, rounds)
        with turns.clock() as took:
            next(race.open_ours(f"{folder}/ours", tokenizer).iterate(0, 10))
        figures: dict[str, Any] = {"prepare": preparing, "load": rates, "first": took.seconds}
        notes = [
            f"{rows:,} rows of {race.LENGTH:,} tokens, {race.BATCH} a batch. The first batch is "
            f"there {took.seconds:.3f} s after the folder was named."
        ]
        if flags.FLAGS.memory:
            figures["memory"] = race.growth(f"{folder}/ours", tokenizer)
            notes.append(
                f"From batch 1,000 to 100,000 the process grew by {figures['memory']:+.1f} MB."
            )
    table = compared(preparing, rates)
    results.report(
        results.Result("data", [table], figures, results.given(), versions=versions, notes=notes)
    )


if __name__ == "__main__":
    flags.DEFINE_string(
        "other_python", "", "The Python of an environment with `datasets`; empty: ours and Grain."
    )
    flags.DEFINE_integer("rounds", 3, "Rounds that count.", lower_bound=1)
    flags.DEFINE_integer("copies", 4, "Copies of the documentation in the corpus.", lower_bound=1)
    flags.DEFINE_bool("memory", True, "Also measure memory over 100,000 batches.")
    results.define_flags()
    app.run(main)
