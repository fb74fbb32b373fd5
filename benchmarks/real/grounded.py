"""Answers with and without passages, from real knowledge, and the labels of real messages.

    python -m benchmarks.real.grounded --workdir=runs/grounded --model=PATH/SmolLM2.gguf \\
        --data=PATH

PATH holds `dstc9-faq/knowledge.json.gz` (questions and answers about hotels, restaurants and
sights) and `abcd-sample/` (a shop's guidelines, and three dialogues). Passages are the answers of
the one, under the name of the place, and the steps of the other. Questions are held out by place,
and by flow; the label of a question is its domain.

Low-rank adapters of the open model learn the same questions and labels twice: with
`data.passages` (BM25, three passages, a share of prompts without the right one), and without. Both
are asked held-out questions with the right passages, wrong ones, none, and those that BM25 finds;
and the domain of held-out questions, by likelihood and as an answer.

Prints every metric of both with its 95% interval, and their paired differences. Stopped or killed,
the same command resumes.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags
from etils import epath

from benchmarks import results, turns
from benchmarks.real import data
from data.read import json_files
from train.tasks.evaluation import command
from train.tasks.metrics import Z

LENGTH, PASSAGES, TOKENS = 384, 3, 208
HELD_OUT = 0.3  # of places and of flows
RATES = {"none_rate": 0.2, "distractor_rate": 0.8}


def knowledge(folder: Path) -> Iterator[dict]:
    """Yields {"id", "title", "text", "question", "answer", "group", "label"}: passages with the
    question that each answers."""
    with gzip.open(folder / "dstc9-faq/knowledge.json.gz", "rt") as file:
        domains = json.load(file)
    for domain, entities in domains.items():
        for entity, place in entities.items():
            name = (place["name"] or domain).title()
            for number, pair in place["docs"].items():
                yield {
                    "id": f"{domain}-{entity}-{number}", "title": name, "text": pair["body"],
                    "question": f"{name}: {pair['title']}", "answer": pair["body"],
                    "group": f"{domain} {entity}", "label": domain,
                }  # fmt: skip
    for flow, described in json.loads((folder / "abcd-sample/guidelines.json").read_text()).items():
        for subflow, steps in described["subflows"].items():
            actions = [action for action in steps["actions"] if action.get("button")]
            buttons = [action["button"] for action in actions if action["button"] != "N/A"]
            lines = [f"[{action['button']}] {action['text']}" for action in actions]
            if not buttons:
                continue
            yield {
                "id": f"abcd-{subflow}", "title": f"{flow}: {subflow}",
                "text": re.sub(r"[\[\]]", "", "\n".join(lines)),
                "question": f"Which buttons does an agent press for {flow}, {subflow}?",
                "answer": f"{', '.join(buttons)}.", "group": f"abcd {flow}", "label": "shop",
            }  # fmt: skip


def dialogues(folder: Path, ids: Sequence[str]) -> Iterator[dict]:
    """Yields the dialogues as chats, up to the agent's longest turn, with their guideline."""
    for talk in json.loads((folder / "abcd-sample/abcd_sample.json").read_text()):
        turns: list[dict] = []
        for speaker, text in talk["original"]:
            role = {"agent": "assistant", "customer": "user"}.get(speaker)
            if role is None or (not turns and role == "assistant"):
                continue
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += f"\n{text}"
            else:
                turns.append({"role": role, "content": text})
        agent = range(1, len(turns), 2)
        end = max(agent, key=lambda number: len(turns[number]["content"]))
        words = re.findall("[a-z]+", talk["scenario"]["subflow"])
        named = [i for i in ids if all(word in i.lower() for word in ("abcd", *words))]
        yield {"messages": turns[: end + 1], "sources": named[:1]}


def prepare(folder: Path, workdir: Path, train: int, asked: int) -> dict[str, Path]:
    """Writes the passages and the sets of questions and labels; returns their paths."""
    entries = list(knowledge(folder))
    passages = [{name: entry[name] for name in ("id", "title", "text")} for entry in entries]
    sides: dict[bool, list[dict]] = {True: [], False: []}
    for entry in entries:
        sides[data.heldout(entry["group"], HELD_OUT)].append(entry)
    rng = random.Random(0)

    def chosen(rows: list[dict], count: int) -> list[dict]:
        """A tenth of the shop's, as far as there are."""
        shop = [row for row in rows if row["label"] == "shop"]
        others = [row for row in rows if row["label"] != "shop"]
        some = rng.sample(shop, min(len(shop), max(count // 10, 1)))
        rows = some + rng.sample(others, min(len(others), count - len(some)))
        return rng.sample(rows, len(rows))

    def question(entry: Mapping[str, Any]) -> dict:
        return {name: entry[name] for name in ("question", "answer")} | {"sources": [entry["id"]]}

    def labels(rows: list[dict], count: int) -> list[dict]:
        """As many of each label, as far as there are; without the name of the place."""
        some = []
        for label in LABELS:
            of = [row["question"].rpartition(": ")[2] for row in rows if row["label"] == label]
            texts = rng.sample(of, min(len(of), count // len(LABELS)))
            some += [{"text": text, "label": label} for text in texts]
        return rng.sample(some, len(some))

    learned, heldout = chosen(sides[False], train), chosen(sides[True], asked)
    turns = [
        {"messages": [{"role": "user", "content": q["question"]},
                      {"role": "assistant", "content": q["answer"]}], "sources": q["sources"]}
        for q in map(question, learned)
    ]  # fmt: skip
    talks = list(dialogues(folder, [entry["id"] for entry in entries]))
    return {
        "passages": data.write(workdir / "passages.jsonl", passages),
        "train": data.write(workdir / "train.jsonl", [*turns, *talks]),
        "labels": data.write(workdir / "labels.jsonl", labels(sides[False], train // 4)),
        "heldout": data.write(workdir / "heldout.jsonl", map(question, heldout)),
        "tickets": data.write(workdir / "tickets.jsonl", labels(sides[True], 2 * asked)),
    }


PROMPT = "Message: {text}\nTopic:"
LABELS = ("hotel", "restaurant", "attraction")


def recipe(
    base: Path, paths: Mapping[str, Path], steps: int, grounds: bool
) -> ml_collections.ConfigDict:
    """Adapters that learn the questions and labels, with or without passages."""
    settings = data.recipe("sft", base, paths["train"], paths["heldout"], steps, 5e-4)
    labels = {"prompt": PROMPT, "response": "{label}"}
    chats = {"messages": "{messages}"} | ({"sources": "{sources}"} if grounds else {})
    settings.data.source, settings.data.heldout_source = "", ""
    settings.data.mixture = {
        "answers": dict(source=str(paths["train"]), weight=3.0, fields=chats),
        "labels": dict(source=str(paths["labels"]), weight=1.0, fields=labels, passages=False),
    }
    settings.data.update(dict(length=LENGTH, batch_size=4, heldout_fraction=0.02))
    if grounds:
        settings.data.passages.source = str(paths["passages"])
        settings.data.passages.update(dict(number=PASSAGES, tokens=TOKENS, **RATES))
    return settings


def tasks(workdir: Path, paths: Mapping[str, Path]) -> list[str]:
    """Writes the tasks; returns their files."""
    tickets = (
        f"kind: classification\nsource: {paths['tickets'].name}\n"
        f"prompt: {json.dumps(PROMPT.replace('{text}', '{{text}}'))}\n"
        f"label: '{{{{label}}}}'\nlabels: [{', '.join(LABELS)}]\n"
    )
    files = {
        "answers.yaml": (
            f"kind: grounded\nsource: {paths['heldout'].name}\nquestion: '{{{{question}}}}'\n"
            "answer: '{{answer}}'\nsources: '{{sources}}'\nmax_new_tokens: 40\npassages:\n"
            f"  source: {paths['passages'].name}\n  number: {PASSAGES}\n  tokens: {TOKENS}\n"
        ),
        "labels_likelihood.yaml": tickets + "method: likelihood\n",
        "labels_written.yaml": tickets + "method: generation\nmax_new_tokens: 8\n",
    }
    for name, text in files.items():
        (workdir / name).write_text(text)
    return [str(workdir / name) for name in files]


def table(measured: Mapping[str, Any]) -> results.Table:
    """The metrics of both runs and their differences, with 95% intervals."""
    rows = []
    others = {entry["task"]: entry for entry in measured["against"]["results"]}
    compared = {
        (row["task"], row["metric"]): row["paired"] for row in measured["against"]["comparisons"]
    }
    for entry in measured["results"]:
        for number, (name, value) in enumerate(entry["metrics"].items()):
            other = others[entry["task"]]["metrics"][name]
            pair = compared.get((entry["task"], name))
            difference = (
                f"{pair['difference']:+.2f} ({pair['low']:+.2f} to {pair['high']:+.2f})"
                if pair and pair["items"] > 1 else ""
            )  # fmt: skip
            task = f"{entry['task']} ({entry['items']})" if not number else ""
            rows.append([task, name, _interval(value), _interval(other), difference])
    columns = ("task", "metric", "with passages", "without", "difference")
    return results.Table(columns, rows)


def _interval(estimate: Mapping[str, float | None]) -> str:
    value, stderr = estimate["value"], estimate["stderr"]
    if value is None:
        return ""
    return f"{value:.2f}" + (f" ± {Z * stderr:.2f}" if stderr is not None else "")


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    workdir = data.open_workdir()
    paths = prepare(Path(given.data), workdir, given.questions, given.asked)
    base = data.base(given.model, workdir)
    seconds = {}
    for name in ("grounded", "plain"):
        settings = recipe(base, paths, given.steps, grounds=name == "grounded")
        with turns.clock() as took:
            data.fit(settings, workdir / name, given.dtype)
        seconds[name] = round(took.seconds)
    out = workdir / "evals"
    with turns.clock() as took:
        command.run(
            command.Options(
                workdir=str(workdir / "grounded"), against=str(workdir / "plain"), out=str(out),
                tasks=tasks(workdir, paths), chat=True, dtype=given.dtype,
            )
        )  # fmt: skip
    seconds["evaluation"] = round(took.seconds)
    measured = json_files.read(epath.Path(out) / "results.json")
    figures = {"seconds": seconds} | {name: measured[name] for name in ("results", "against")}
    results.report(results.Result("real.grounded", [table(measured)], figures, results.given()))


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Folder with dstc9-faq and abcd-sample.")
    flags.DEFINE_string("model", None, "The open model: a GGUF file or Hugging Face directory.")
    flags.DEFINE_string("workdir", None, "Folder of all files.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the computation.")
    flags.DEFINE_integer("steps", 60, "Optimizer steps of each run.")
    flags.DEFINE_integer("questions", 400, "Questions to learn.")
    flags.DEFINE_integer("asked", 48, "Held-out questions to ask, each in four ways.")
    results.define_flags()
    flags.mark_flags_as_required(["data", "model", "workdir"])
    app.run(main)
