"""Records of llm-foundry's files (`query, choices, gold` and its like) in the columns of the data
sets that the harness's own tasks read, so that its prompts are made by its own templates."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

LETTERS = "ABCDEFGH"
Record: TypeAlias = Mapping[str, Any]


def _labelled(record: Record) -> dict[str, Any]:
    labels = list(LETTERS[: len(record["choices"])])
    return {"choices": {"text": record["choices"], "label": labels},
            "answerKey": labels[record["gold"]]}  # fmt: skip


def arc(record: Record) -> dict[str, Any]:
    return {"question": record["query"].removeprefix("Question: "), **_labelled(record)}


def piqa(record: Record) -> dict[str, Any]:
    first, second = record["choices"]
    goal = record["query"].removeprefix("Question: ").removesuffix("\n")
    return {"goal": goal, "sol1": first, "sol2": second, "label": record["gold"]}


def winogrande(record: Record) -> dict[str, Any]:
    first, second = record["context_options"]
    pairs = enumerate(zip(first, second, strict=False))
    start = first[: next((i for i, (a, b) in pairs if a != b), len(first))]
    start = start[: start.rfind(" ") + 1]
    return {
        "sentence": f"{start}_ {record['continuation']}",
        "option1": first[len(start) :],
        "option2": second[len(start) :],
        "answer": str(record["gold"] + 1),
    }


def boolq(record: Record) -> dict[str, Any]:
    passage, _, question = record["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": record["gold"]}


def copa(record: Record) -> dict[str, Any]:
    premise, _, connector = record["query"].rpartition(" ")
    first, second = record["choices"]
    return {
        "premise": premise.removesuffix(",") + ".",
        "question": {"because": "cause", "therefore": "effect"}[connector],
        "choice1": first, "choice2": second, "label": record["gold"],
    }  # fmt: skip


def openbookqa(record: Record) -> dict[str, Any]:
    return {"question_stem": record["query"], **_labelled(record)}


def lambada(record: Record) -> dict[str, Any]:
    return {"text": f"{record['context']} {record['continuation'].strip()}"}


class Row(NamedTuple):
    """A benchmark on both sides.

    Attributes:
      file: name of llm-foundry's. yaml: the harness's task. columns: of a record, for it.
    """

    file: str
    yaml: str
    columns: Callable[[Record], dict[str, Any]]


# {our task: its Row}
ROWS = {
    "arc_easy": Row("arc_easy", "arc/arc_easy.yaml", arc),
    "piqa": Row("piqa", "piqa/piqa.yaml", piqa),
    "winogrande": Row("winogrande", "winogrande/default.yaml", winogrande),
    "boolq": Row("boolq", "super_glue/boolq/default.yaml", boolq),
    "copa": Row("copa", "super_glue/copa/default.yaml", copa),
    "openbookqa": Row("openbook_qa", "openbookqa/openbookqa.yaml", openbookqa),
    "lambada": Row("lambada_openai", "lambada/lambada_openai.yaml", lambada),
}


def read(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def write(name: str, data: str, folder: Path, tasks: Path) -> None:
    """Writes a benchmark's documents and a task of the harness that reads them.

    Args:
      data: the folder of llm-foundry's files. tasks: the folder of the harness's own tasks.
    """
    row, documents = ROWS[name], folder / f"{name}.jsonl"
    records = read(Path(data) / f"{row.file}.jsonl.gz")
    documents.write_text("".join(json.dumps(row.columns(r)) + "\n" for r in records))
    lines = [
        f"include: {tasks / row.yaml}",
        f"task: ours_{name}",
        "tag: null",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(documents))}}}}}",
        "training_split: null",
        "validation_split: null",
        "test_split: test",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
