"""Multiple choice: ARC.

Prompts are those of lm-evaluation-harness. Each task reads the fields that the hub has, and those
of llm-foundry's files (`query`, `choices`, `gold`).
"""

from __future__ import annotations

from data.errors import DataError
from train.tasks import fields
from train.tasks.base import Document
from train.tasks.forms import multiple_choice


def is_foundry(record: Document) -> bool:
    """Whether a record has the fields of llm-foundry's multiple choice."""
    return fields.has(record, "query", "choices", "gold")


def arc(record: Document) -> list[Document]:
    """Clark et al. 2018, arXiv:1803.05457."""
    if is_foundry(record):
        choices = fields.texts(record, "choices")
        question = fields.text(record, "query").removeprefix("Question: ").removesuffix("\n")
        gold = fields.index(record, "gold", choices)
    else:
        question, listed = fields.text(record, "question"), fields.value(record, "choices")
        choices, labels = fields.texts(listed, "text"), fields.texts(listed, "label")
        key = fields.text(record, "answerKey")
        if key not in labels:
            raise DataError(f"'answerKey' is {key!r:.20}, which is none of {labels}", "wrong_type")
        gold = labels.index(key)
    context = f"Question: {question}\nAnswer:"
    return [{"context": context, "choices": choices, "gold": gold}]


TASKS = (
    multiple_choice(
        "arc_easy", "Grade-school science, the easy part; Clark et al. 2018, arXiv:1803.05457",
        "hf:allenai/ai2_arc/ARC-Easy:test", arc, pool="hf:allenai/ai2_arc/ARC-Easy:train",
    ),
    multiple_choice(
        "arc_challenge", "Grade-school science, the hard part; Clark et al. 2018, arXiv:1803.05457",
        "hf:allenai/ai2_arc/ARC-Challenge:test", arc,
        pool="hf:allenai/ai2_arc/ARC-Challenge:train",
    ),
)  # fmt: skip
