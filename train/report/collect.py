"""The report of a chain: held-out metrics of every run and answers of every policy, on one page.

`report.json` has the numbers; two runs of a recipe on one machine differ only in `seconds`.
`report.html` (train/report/html.py) adds curves, and every policy's answers to held-out questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TypedDict

import jax
from etils import epath
from rich.table import Table

from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from model import sharding
from train.config.run import RunConfig
from train.evals.generative import TextSampler
from train.objectives import registry
from train.objectives.base import Objective
from train.objectives.reporting import Finished, Result, null_as_nan
from train.report import html
from train.report.html import Answered
from train.runtime import checkpoint, strict_json
from train.runtime.metrics import read_metrics, read_records
from train.terminal.console import console, duration

QUESTIONS = 8


class Done(TypedDict):
    """The content of the file DONE, which marks a finished run of a chain."""

    seconds: float


def objective_of(run: Finished) -> Objective:
    """The objective of a run."""
    return registry.STAGES[run.config.stage]


def read(runs: dict[str, RunConfig], workdir: epath.PathLike) -> list[Finished]:
    """The finished runs of a chain, in order.

    A judge is a run that a run with rollouts names as its judge, and none as its reward model.
    """
    rollouts = [run for run in runs.values() if registry.STAGES[run.stage].rollouts]
    origins = [run.init_from for run in rollouts]
    judges = {o["judge"] for o in origins if "judge" in o} - {o.get("reward") for o in origins}
    finished = []
    for name, config in runs.items():
        path = epath.Path(workdir) / name
        finished.append(
            Finished(
                name,
                "judge" if str(path) in judges else config.stage,
                config,
                path,
                read_metrics(path, "train"),
                read_metrics(path, "eval"),
                json_files.read(path / "DONE", Done)["seconds"],
            )
        )
    return finished


def numbers(finished: list[Finished]) -> dict:
    """The content of report.json: {role: its numbers}, and `seconds` by the name of each run.

    A stage that did not run, or a metric it lacks, has no key. The later of two runs of a role
    replaces the earlier one.
    """
    report = {}
    for run in finished:
        values = objective_of(run).report.numbers(run)
        report[run.role] = {name: x for name, x in values.items() if x is not None}
    return report | {"seconds": {run.name: run.seconds for run in finished}}


def results(report: dict) -> list[Result]:
    """The content of report.json in words; stages without measurements are omitted."""
    measured = [(stage, values) for stage, values in report.items() if stage in registry.STAGES]
    words = (registry.STAGES[s].report.result(values, report) for s, values in measured if values)
    return [result for result in words if result]


def last_samples(run: Finished) -> list[dict]:
    """The samples of the last evaluation of the stage's own, from samples.jsonl."""
    samples = [s for s in read_records(run.workdir / "samples.jsonl") if "eval" not in s]
    return [s for s in samples if s["step"] == samples[-1]["step"]]


def answer(finished: list[Finished]) -> list[Answered]:
    """Held-out questions with the answer of each run's policy at temperature 0."""
    answering = [run for run in finished if objective_of(run).answers]
    # Loading a model needs all processes, and only process 0 writes the report.
    if not answering or jax.process_count() > 1:
        return []
    # Questions of the last run on conversations, which have reference answers; else the last run's.
    *_, source = sorted(answering, key=lambda run: objective_of(run).schema == "chat")
    samples = last_samples(source)[:QUESTIONS]
    if not samples:
        return []
    mesh, samplers, answers = sharding.make_mesh(source.config.mesh), {}, {}
    with jax.set_mesh(mesh):
        for run in finished:
            if "policy" not in objective_of(run).trainable:
                continue
            model, params = checkpoint.load(run.workdir, "policy", mesh)
            tokenizer = tokenizers.load(run.workdir)
            key = model, tokenizer.fingerprint  # policies with the same key share a compilation
            if key not in samplers:
                ctx = SimpleNamespace(models={"policy": model}, tokenizer=tokenizer, mesh=mesh)
                samplers[key] = TextSampler(ctx, source.config.evaluate.sample_tokens)
            messages = ([{"role": "user", "content": s["prompt"]}] for s in samples)
            prompts = [render_prompt(tokenizer, m) for m in messages]
            answers[run.name] = samplers[key](params, prompts)
    return [
        Answered(
            sample["prompt"],
            {name: texts[i] for name, texts in answers.items()},
            sample.get("reference", ""),
        )
        for i, sample in enumerate(samples)
    ]


def is_fresh(files: Iterable[epath.Path], done: Iterable[epath.Path]) -> bool:
    """Whether all `files` exist and each is at least as new as every file of `done`."""
    if not all(file.exists() for file in files):
        return False
    return min(f.stat().mtime for f in files) >= max(d.stat().mtime for d in done)


def show(report: dict, chat_with: epath.Path | None, page: epath.Path) -> None:
    """Prints the results as a table, and the next command to run."""
    table = Table(title="Measured on held-out data", title_justify="left")
    for heading in ("stage", "result", ""):
        table.add_column(heading)
    for result in results(report):
        table.add_row(result.stage, result.headline, result.beside)
    console.print(table)
    console.print(f"Took:               {duration(sum(report['seconds'].values()))}")
    console.print(f"Curves and answers: {page}", markup=False)
    if chat_with:
        console.print(
            f"Talk to it:         python -m train.chat --workdir={chat_with}", markup=False
        )


def write(runs: dict[str, RunConfig], workdir: epath.PathLike) -> None:
    """Writes report.json and report.html, unless they are newer than every run, and prints the
    results.

    Args:
      runs: a finished chain, as train.workflows.multistage.resolve returns it.
    """
    workdir = epath.Path(workdir)
    page, data = workdir / "report.html", workdir / "report.json"
    if not is_fresh((page, data), [workdir / name / "DONE" for name in runs]):
        finished = read(runs, workdir)
        report = numbers(finished)
        page.write_text(html.page(finished, report, results(report), answer(finished)))
        data.write_text(strict_json.dumps(report, indent=2) + "\n")
    rows = {name: registry.STAGES[run.stage] for name, run in runs.items()}
    policies = [name for name, row in rows.items() if "policy" in row.trainable]
    show(null_as_nan(json_files.read(data)), workdir / policies[-1] if policies else None, page)
