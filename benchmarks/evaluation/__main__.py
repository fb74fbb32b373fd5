"""Multiple choice and last words: our scores beside those of lm-evaluation-harness.

    python -m benchmarks.evaluation --model=PATH/model.gguf --data=FOLDER --limit=200
    python -m benchmarks.evaluation --model=PATH/model.gguf --data=FOLDER

`--data` holds llm-foundry's files (arc_easy.jsonl.gz and its like). The model is imported, and then
exported for `transformers`. Three sides answer the same documents in turns, task by task: our tasks
with our scorer, in this process; the harness with its Hugging Face model on the CPU; and the
harness with our model `seedpod`. Each waits while another computes. All compute in float32 on the
same cores, and a turn's time includes tokenization. The harness's own templates make its prompts.
The first of `--repeats` rounds compiles; the fastest counts, and first rounds are given too. The
order of the sides is reversed at every second round.

Prints a line a task: the share of items with the same choice as the harness's (of LAMBADA: whether
the word is likeliest), also by the log-likelihood per byte, and through `seedpod`; the largest
difference of a log-likelihood; the seconds of each side. Then the items that differ. Processor
seconds are those of all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import results, turns, workers
from benchmarks.evaluation import records
from model import cpu
from model.sharding import MeshConfig, make_mesh
from train.interop import convert, export, opening
from train.runtime.metrics import quiet_to_file
from train.tasks import sources
from train.tasks.base import Task
from train.tasks.registry import TASKS
from train.tasks.rows.forms import scored_parts
from train.tasks.scoring.scorer import Scorer

SIDES = ("ours", "hf", "seedpod")
# The log-likelihoods of the choices of each document, and whether each is the likeliest.
Responses = list[list[tuple[float, bool]]]


class Ours:
    """Our tasks and scorer."""

    def __init__(self, model: str, data: str):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        self.opened, self.data = opening.open_model(model, "policy", mesh, "float32"), data
        self.scorer = Scorer(self.opened.config, self.opened.tokenizer, mesh)

    def documents(self, name: str, limit: int) -> tuple[Task, list[Any]]:
        task = TASKS[name]
        assert isinstance(task, Task)
        return task, sources.load(task, [self.data]).scored[: limit or None]

    def answer(self, task: str, limit: int) -> dict[str, Any]:
        row, documents = self.documents(task, limit)
        requests = [row.request(document, (), False) for document in documents]
        with turns.clock() as took:
            responses = dict(self.scorer.answer(self.opened.params, requests))
        scored = [scored_parts(responses[i]) for i in range(len(requests))]
        ordered = [[(s.logprob, s.greedy) for s in choices] for choices in scored]
        return {"seconds": took.seconds, "processor_seconds": took.processor, "responses": ordered}


def choices(responses: Responses, lengths: Sequence[Sequence[int]] | None = None) -> list[int]:
    """The choice of each item, by log-likelihood, or divided by its length; of a single one whether
    it is the likeliest."""
    if len(responses[0]) == 1:
        return [int(greedy) for ((_, greedy),) in responses]
    values = [np.array([logprob for logprob, _ in item]) for item in responses]
    if lengths:
        values = [v / np.array(n) for v, n in zip(values, lengths, strict=True)]
    return [int(np.argmax(v)) for v in values]


def margin(item: Sequence[tuple[float, bool]]) -> float:
    """How far the best choice is ahead of the next one."""
    first, second = sorted((logprob for logprob, _ in item), reverse=True)[:2]
    return first - second


def compare(name: str, ours: Ours, answers: dict[str, dict], limit: int) -> dict[str, Any]:
    """The agreement of the three sides on a task."""
    _, documents = ours.documents(name, limit)
    mine, theirs, through = (answers[side]["responses"] for side in ("ours", "hf", "seedpod"))
    lengths = [[len(c.encode()) for c in d.get("choices", " ")] for d in documents]
    pairs = [(a, b) for x, y in zip(mine, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    same = np.array(choices(mine)) == np.array(choices(theirs))
    result = {
        "items": len(mine),
        "same": float(np.mean(same)),
        "same_per_byte": float(
            np.mean(np.array(choices(mine, lengths)) == np.array(choices(theirs, lengths)))
        ),
        "same_through_seedpod": float(np.mean(np.array(choices(mine)) == choices(through))),
        "largest_difference": max(abs(a[0] - b[0]) for a, b in pairs),
        "differ": [
            {"item": int(i), "ours": mine[i], "theirs": theirs[i]} for i in np.flatnonzero(~same)
        ],
    }
    return result


UNITS = ("seconds", "processor_seconds")
HEADER = ("task", "items", "same choice", "per byte", "through seedpod", "largest Δ", "ours, s",
          "harness, s", "harness with seedpod, s", "ours / harness")  # fmt: skip


def line(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    shares = (result[key] for key in ("same", "same_per_byte", "same_through_seedpod"))
    times = [min(result["seconds"][side]) for side in ("ours", "hf", "seedpod")]
    return (
        name, str(result["items"]), *(f"{share:.2%}" for share in shares),
        f"{result['largest_difference']:.1e}", *(f"{t:.1f}" for t in times),
        f"{times[0] / times[1]:.2f}",
    )  # fmt: skip


def totals(measured: dict[str, Any]) -> results.Table:
    """The times of all tasks together, of the fastest and of the first rounds."""
    rows = []
    for unit in UNITS:
        for label, pick in (("fastest", min), ("first", lambda rounds: rounds[0])):
            sums = [sum(pick(r[unit][k]) for r in measured.values()) for k in SIDES]
            times = (f"{total:.1f}" for total in sums)
            rows.append([f"{unit.replace('_', ' ')}, {label} rounds", *times,
                         f"**{sums[0] / sums[1]:.2f}**"])  # fmt: skip
    return results.Table(("all tasks", "ours", "harness", "harness with seedpod",
                          "ours / harness"), rows)  # fmt: skip


def differences(measured: dict[str, Any]) -> list[str]:
    """A sentence for each item with another choice."""
    lines = []
    for name, result in measured.items():
        for item in result["differ"]:
            gap = f", {margin(item['theirs']):.1e} nats apart" if len(item["theirs"]) > 1 else ""
            lines.append(f"{name} item {item['item']} differs{gap}.")
    return lines


def run(names: Sequence[str], directory: Path) -> dict[str, Any]:
    f = flags.FLAGS
    import lm_eval

    convert.import_model(f.model, directory / "run")
    export.export_model(directory / "run", directory / "hf")
    (directory / "tasks").mkdir()
    for name in names:
        own = Path(lm_eval.__file__).parent / "tasks"
        records.write(name, f.data, directory / "tasks", own)
    ours = Ours(str(directory / "run"), f.data)
    common, threads = str(directory / "tasks"), str(os.cpu_count())
    module = [sys.executable, "-m", "benchmarks.evaluation.harness"]
    hf = [*module, "hf", str(directory / "hf"), common, threads, str(f.batch)]
    others = {
        "hf": workers.Worker(hf, quiet=not f.verbose),
        "seedpod": workers.Worker(
            [*module, "seedpod", str(directory / "run"), common], quiet=not f.verbose
        ),
    }
    sides = {"ours": ours.answer} | {name: worker.ask for name, worker in others.items()}
    for answer in sides.values():
        answer(task=names[0], limit=8)  # loads and warms up
    measured = {}
    for name in names:
        answers = {
            side: lambda number, answer=answer, name=name: answer(task=name, limit=f.limit)
            for side, answer in sides.items()
        }
        rounds = turns.race(answers, f.repeats, warm=0)
        result = compare(name, ours, {side: rounds[side][-1] for side in SIDES}, f.limit)
        for unit in UNITS:
            result[unit] = {side: [answer[unit] for answer in rounds[side]] for side in SIDES}
        measured[name] = result
        print(f"{name}: {json.dumps(result['seconds'])}", file=sys.stderr, flush=True)
    for worker in others.values():
        worker.close()
    return measured


def main(argv: Sequence[str]) -> None:
    del argv
    quiet_to_file(os.devnull)
    cpu.keep_memory()
    names = flags.FLAGS.tasks or list(records.ROWS)
    with tempfile.TemporaryDirectory() as directory:
        measured = run(names, Path(directory))
    tasks = results.Table(HEADER, [line(name, result) for name, result in measured.items()])
    versions = {name: metadata.version(name) for name in ("lm_eval", "transformers", "torch")}
    results.report(
        results.Result(
            "evaluation", [tasks, totals(measured)], measured, results.given(), versions=versions,
            notes=differences(measured),
        )
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A Hugging Face directory or GGUF file.")
    flags.DEFINE_string("data", None, "A folder of llm-foundry's files.")
    flags.DEFINE_list("tasks", [], "Tasks; all seven by default.")
    flags.DEFINE_integer("limit", 0, "Documents of each task; 0 for all.", lower_bound=0)
    flags.DEFINE_integer("repeats", 1, "Turns of each side; the fastest counts.", lower_bound=1)
    flags.DEFINE_integer("batch", 16, "Rows in a batch of the harness.", lower_bound=1)
    flags.DEFINE_bool("verbose", False, "Show what the harness prints.")
    results.define_flags()
    flags.mark_flags_as_required(["model", "data"])
    app.run(main)
