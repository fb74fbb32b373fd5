"""The report of a chain: held-out metrics of every run and answers of every policy, on one page.

`report.json` has the numbers; two runs of a recipe on one machine differ only in `seconds`,
`total_seconds` and `made`, which says when, where and with what each run was trained.
`report.html` (train/report/html.py) adds curves, and every policy's answers to held-out questions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NotRequired, TypedDict

import jax
from etils import epath
from rich.table import Table
from rich.text import Text

from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from interpreter import python
from model import sharding
from train.checkpoints import loading
from train.config.run import RunConfig
from train.config.run_names import split_step
from train.evals.generative import TextSampler
from train.objectives import registry
from train.objectives.base import Objective
from train.objectives.reporting import Finished, Result, null_as_nan
from train.report import html
from train.report.html import Answered
from train.runtime import strict_json
from train.runtime.records import read_metrics, read_records
from train.terminal.console import console, duration

QUESTIONS = 8


class Done(TypedDict):
    """The content of the file DONE, which marks a finished run of a chain."""

    seconds: float
    made: NotRequired[dict[str, str | int]]


def objective_of(run: Finished) -> Objective:
    """The objective of a run."""
    return registry.STAGES[run.config.stage]


def read(runs: dict[str, RunConfig], workdir: epath.PathLike) -> list[Finished]:
    """The finished runs of a chain, in order.

    A judge is a run that a run with rollouts names as its judge, and none as its reward model.
    """
    rollouts = [run for run in runs.values() if registry.STAGES[run.stage].rollouts]
    origins = [{r: split_step(x)[0] for r, x in run.init_from.items()} for run in rollouts]
    judges = {o["judge"] for o in origins if "judge" in o} - {o.get("reward") for o in origins}
    finished = []
    for name, config in runs.items():
        path = epath.Path(workdir) / name
        done = json_files.read(path / "DONE", Done)
        finished.append(
            Finished(
                name,
                "judge" if str(path) in judges else config.stage,
                config,
                path,
                read_metrics(path, "train"),
                read_metrics(path, "eval"),
                done["seconds"],
                done.get("made", {}),
            )
        )
    return finished


def values(run: Finished) -> dict:
    """The values of a run in report.json: those that were measured."""
    return {name: x for name, x in objective_of(run).report.numbers(run).items() if x is not None}


def numbers(finished: list[Finished]) -> dict:
    """The content of report.json: {role: its numbers}, `results` in words by the name of each run,
    its `seconds` and how it was `made`.

    A stage that did not run, or a metric it lacks, has no key. The later of two runs of a role
    replaces the earlier one, except in `results`.
    """
    report: dict[str, Any] = {run.role: values(run) for run in finished}
    words = {
        run.name: objective_of(run).report.result(run, values(run), report)
        for run in finished
        if run.role != "judge"
    }
    return report | {
        "results": {name: result._asdict() for name, result in words.items() if result},
        "seconds": {run.name: run.seconds for run in finished},
        "total_seconds": sum(run.seconds for run in finished),
        "made": {run.name: run.made for run in finished},
    }


def results(report: dict) -> dict[str, Result]:
    """{run: its result}, from the content of report.json."""
    return {name: Result(**words) for name, words in report["results"].items()}


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
            model, params = loading.load(run.workdir, "policy", mesh)
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
            source.config.evaluate.sample_tokens,
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
    for heading in ("stage", "result"):
        table.add_column(heading)
    styles = {"good": "green", "caution": "yellow"}
    for name, result in results(report).items():
        style = styles.get(result.verdict, "")
        text = Text.assemble((result.headline, f"bold {style}"), f"\n{result.beside}")
        if result.reason:
            text.append(f"\n{result.stated_reason}", style)
        table.add_row(Text(name), text)
    console.print(table)
    console.print(f"Took:               {duration(report['total_seconds'])}")
    console.print(f"Curves and answers: {page}")
    if chat_with:
        console.print(
            f"Talk to it:         {python()} -m train.chat --workdir={shlex.quote(str(chat_with))}",
        )


def write(runs: dict[str, RunConfig], workdir: epath.PathLike) -> None:
    """Writes report.json and report.html, unless they are newer than every run, and prints the
    results.

    Args:
      runs: a finished chain, as train.workflows.multistage.resolve returns it.
    """
    workdir = epath.Path(workdir)
    page, data = workdir / "report.html", workdir / "report.json"
    fresh = is_fresh((page, data), [workdir / name / "DONE" for name in runs])
    if not fresh or "results" not in json_files.read(data):
        finished = read(runs, workdir)
        report = numbers(finished)
        bars = [
            objective_of(run).report.bars(run, values(run), report)
            for run in finished
            if run.role != "judge"
        ]
        text = html.page(
            workdir.name, finished, results(report), filter(None, bars), answer(finished)
        )
        page.write_bytes(text.encode(errors="replace"))  # answers may hold lone surrogates
        data.write_text(strict_json.dumps(report, indent=2) + "\n")
    rows = {name: registry.STAGES[run.stage] for name, run in runs.items()}
    policies = [name for name, row in rows.items() if "policy" in row.trainable]
    show(null_as_nan(json_files.read(data)), workdir / policies[-1] if policies else None, page)
