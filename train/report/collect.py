"""The end of a chain: what each stage was measured at and how the models answer, on one page.

`report.json` holds the numbers: two runs of a recipe on one machine differ in its `seconds` alone.
`report.html` (train/report/html.py) adds curves, and held-out questions answered by every policy.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import NamedTuple, TypedDict

import jax
from etils import epath
from rich.table import Table

from data.read import json_files
from data.schemas.templates import is_number
from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from model import sharding
from train.config.run import RunConfig
from train.evals.evaluators import TextSampler
from train.report import html
from train.report.html import Answered, Result
from train.rl.advantages import EQUAL
from train.runtime import checkpoint, strict_json
from train.runtime.metrics import console, duration, read_metrics, read_records

QUESTIONS = 8


class Done(TypedDict):
    """What the file DONE of a finished stage says."""

    seconds: float


class Finished(NamedTuple):
    """A finished run. `role` is its stage, or `judge`; `train` and `evals` are its metrics."""

    name: str
    role: str
    config: RunConfig
    workdir: epath.Path
    train: list[dict]
    evals: list[dict]
    seconds: float

    def _measured(self, first: bool = False) -> dict[str, float]:
        """The numbers of the last evaluation, or of one before the first step; NaN where one was
        not finite."""
        if not self.evals or (first and self.evals[0]["step"]):
            return {}
        record = _number(self.evals[0 if first else -1])
        return {name: x for name, x in record.items() if is_number(x)}

    def metric(self, name: str, first: bool = False) -> float | None:
        """A held-out metric at the end, or before the first step; None if not measured."""
        return self._measured(first).get(name)

    def family(self, prefix: str) -> dict[str, float]:
        """The last held-out metrics named `prefix/…`, the overall one first."""
        found = {
            name.removeprefix(f"{prefix}/"): value
            for name, value in self._measured().items()
            if name.startswith(f"{prefix}/")
        }
        overall = {k: found.pop(k) for k in ("overall",) if k in found}
        return overall | dict(sorted(found.items()))


def _number(value):
    """A value of metrics.jsonl or report.json, in which null is NaN or infinite."""
    if isinstance(value, dict):
        return {name: _number(x) for name, x in value.items()}
    return math.nan if value is None else value


def read(runs: dict[str, RunConfig], workdir) -> list[Finished]:
    """What the finished runs of a chain left in their workdirs, in order."""
    origins = [run.init_from for run in runs.values() if run.stage == "ppo"]
    judges = {o["judge"] for o in origins if "judge" in o} - {o.get("reward") for o in origins}
    found = []
    for name, config in runs.items():
        path = epath.Path(workdir) / name
        found.append(
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
    return found


def numbers(finished: list[Finished]) -> dict:
    """The content of report.json. A stage that did not run, or a metric it lacks, has no key."""
    roles = {run.role: run for run in finished}  # of two runs of a role, the later counts
    out = {}
    if run := roles.get("pretrain"):
        out["pretrain"] = {"bits_per_byte": run.metric("bits_per_byte")}
    if run := roles.get("sft"):
        out["sft"] = {
            "response_loss": run.metric("loss"),
            "response_loss_pretrained": run.metric("loss", first=True),
        }
    if run := roles.get("reward"):
        out["reward"] = {
            "heldout_accuracy": run.family("accuracy"),
            "word_overlap_accuracy": run.family("overlap_accuracy"),
        }
    if run := roles.get("judge"):
        out["judge"] = {"heldout_accuracy": run.family("accuracy")}
    if run := roles.get("ppo"):
        out["ppo"] = {
            "score_before": run.metric("score", first=True),
            "score_std_before": run.metric("score_std", first=True),
            "score_after": run.metric("score"),
            "kl": run.metric("kl"),
            "win_rate_vs_sft": {
                "value": run.metric("win_rate"),
                "low": run.metric("win_rate_low"),
                "high": run.metric("win_rate_high"),
            },
        }
    out = {
        role: {name: value for name, value in values.items() if value is not None}
        for role, values in out.items()
    }
    return out | {"seconds": {run.name: run.seconds for run in finished}}


def results(found: dict) -> list[Result]:
    """The content of report.json, in words; of a stage that was not measured there is none."""
    out = []
    if values := found.get("pretrain"):
        out.append(
            Result(
                "Pretraining",
                f"{values['bits_per_byte']:.2f} bits per byte",
                "lower is better",
                "What the model needs to write down each byte of text it has never seen. Knowing "
                "nothing would take 8.",
            )
        )
    if "response_loss" in (values := found.get("sft", {})):
        loss, before = values["response_loss"], values.get("response_loss_pretrained")
        headline = f"response loss {loss:.2f}"
        choice = f"a choice among {math.exp(loss):,.1f} tokens"
        if before is not None:
            headline = f"response loss {before:.2f} → {loss:.2f}"
            choice += f"; before fine-tuning, among {math.exp(before):,.1f}"
        out.append(
            Result(
                "Fine-tuning",
                headline,
                "lower is better",
                "Surprise, in nats a token, at the reference answers to held-out questions. The "
                f"model is now as unsure of each token as in {choice}.",
            )
        )
    values = found.get("reward", {})
    if all("overall" in values.get(f"{name}_accuracy", {}) for name in ("heldout", "word_overlap")):
        right = values["heldout_accuracy"]["overall"]
        beside = f"word overlap {values['word_overlap_accuracy']['overall']:.1%}"
        text = (
            "Of two answers that it has never seen, how often it scores the better one higher: "
            "the plain mean over the ways in which the other is worse. Guessing gets 50%; word "
            "overlap prefers the answer that shares more words with the question."
        )
        if (
            judged := found.get("judge", {}).get("heldout_accuracy", {}).get("overall")
        ) is not None:
            beside += f", judge {judged:.1%}"
            text += " The judge is a second reward model, against which PPO does not train."
        out.append(Result("Reward model", f"{right:.1%} of pairs right", beside, text))
    values = found.get("ppo", {})
    won = values.get("win_rate_vs_sft", {})
    if "kl" in values and won and None not in won.values():
        by = "the judge prefers" if "judge" in found else "the score that PPO trains on prefers"
        text = (
            f"How often {by} its answer to that of the model it started from, on held-out "
            "questions, ties counted half; 50% would be no change."
        )
        if {"score_before", "score_after", "score_std_before"} <= values.keys():
            before, after = values["score_before"], values["score_after"]
            text += f" The score it trains on went from {before:.2f} to {after:.2f}"
            if values["score_std_before"] > EQUAL * abs(before):
                spread = (after - before) / values["score_std_before"]
                text += f", {spread:+.1f} standard deviations"
            text += "."
        text += f" It moved {values['kl']:.1f} nats an answer (KL) from where it started."
        beside = f"95% interval {won['low']:.0%} to {won['high']:.0%}"
        out.append(Result("PPO", f"{won['value']:.0%} of answers preferred", beside, text))
    return out


def last_samples(run: Finished) -> list[dict]:
    """The texts that a run's last evaluation wrote to samples.jsonl."""
    samples = read_records(run.workdir / "samples.jsonl")
    return [s for s in samples if s["step"] == samples[-1]["step"]]


def answer(finished: list[Finished]) -> list[Answered]:
    """Held-out questions, answered by the policy of each run at temperature 0."""
    roles = {run.role: run for run in finished}
    asked = roles.get("sft") or roles.get("ppo")
    # Loading is a joint act of all hosts, and process 0 alone writes the report.
    if asked is None or jax.process_count() > 1:
        return []
    samples = last_samples(asked)[:QUESTIONS]
    if not samples:
        return []
    mesh, samplers, answers = sharding.make_mesh(asked.config.mesh), {}, {}
    with jax.set_mesh(mesh):
        for run in finished:
            if run.config.stage not in ("pretrain", "sft", "ppo"):
                continue
            model, params = checkpoint.load(run.workdir, "policy", mesh)
            tokenizer = tokenizers.load(run.workdir)
            key = model, tokenizer.fingerprint  # one compilation serves all that share these
            if key not in samplers:
                ctx = SimpleNamespace(models={"policy": model}, tokenizer=tokenizer, mesh=mesh)
                samplers[key] = TextSampler(ctx, asked.config.evaluate.sample_tokens)
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


def is_fresh(files, done) -> bool:
    """Whether all `files` exist and none is older than a file of `done`."""
    if not all(file.exists() for file in files):
        return False
    return min(f.stat().mtime for f in files) >= max(d.stat().mtime for d in done)


def show(found: dict, chat_with, page) -> None:
    """The results as a table, and what to do next."""
    table = Table(title="Measured on held-out data", title_justify="left")
    for heading in ("stage", "result", ""):
        table.add_column(heading)
    for result in results(found):
        table.add_row(result.stage, result.headline, result.beside)
    console.print(table)
    console.print(f"Took:               {duration(sum(found['seconds'].values()))}")
    console.print(f"Curves and answers: {page}", markup=False)
    if chat_with:
        console.print(
            f"Talk to it:         python -m train.chat --workdir={chat_with}", markup=False
        )


def write(runs: dict[str, RunConfig], workdir) -> None:
    """Writes report.json and report.html, unless they are newer than every run, and says what is
    in them.

    Args:
      runs: a finished chain, as train.chain.resolve gives it.
    """
    workdir = epath.Path(workdir)
    page, data = workdir / "report.html", workdir / "report.json"
    if not is_fresh((page, data), [workdir / name / "DONE" for name in runs]):
        finished = read(runs, workdir)
        found = numbers(finished)
        page.write_text(html.page(finished, found, results(found), answer(finished)))
        data.write_text(strict_json.dumps(found, indent=2) + "\n")
    policies = [name for name, run in runs.items() if run.stage in ("pretrain", "sft", "ppo")]
    show(_number(json_files.read(data)), workdir / policies[-1] if policies else None, page)
