"""CORE: the mean of 22 tasks' centred accuracies (DCLM; Li et al. 2024, arXiv:2406.11794), and the
rows of those tasks that have no other home.

Shots and chance are those of DCLM's eval/heavy.yaml and eval/eval_meta_data_v1.csv. The rows here
read llm-foundry's files, `query, choices, gold` or `context, continuation`, with its delimiters;
the other tasks have the prompts of lm-evaluation-harness, so the mean is close to DCLM's, not it.
"""

from __future__ import annotations

import functools

from train.tasks.base import Document, Part, Suite, Task
from train.tasks.rows import fields
from train.tasks.rows.forms import last_word, multiple_choice
from train.tasks.rows.multiple_choice import foundry

_PAPER = "(llm-foundry's file; Li et al. 2024, arXiv:2406.11794)"
# {name: (what it asks, the text before the answer)}
_CONTINUATIONS = {
    "jeopardy": ("Trivia", "\nAnswer:"),
    "bigbench_qa_wikidata": ("Facts of Wikidata", ""),
    "bigbench_dyck_languages": ("Closing brackets", ""),
    "bigbench_cs_algorithms": ("Common subsequences and balanced brackets", ""),
    "bigbench_operators": ("Invented operators", ""),
    "bigbench_repeat_copy_logic": ("Repeating words", ""),
    "squad": ("Answers in a passage", ""),
    "coqa": ("Answers in a conversation about a passage", ""),
}
_CHOICES = {
    "commonsense_qa": "Common sense, five choices",
    "agi_eval_lsat_ar": "Analytical reasoning of the LSAT",
    "bigbench_language_identification": "The language of a sentence",
}


def _continuation(record: Document, end: str = "") -> list[Document]:
    word = fields.text(record, "continuation").removeprefix(" ")
    context = fields.text(record, "context").rstrip() + end
    return [{"context": context, "continuation": f" {word}"}]


def _choice(record: Document) -> list[Document]:
    return [foundry(record)]


ROWS: tuple[Task, ...] = (
    *(
        last_word(
            name, f"{asks} {_PAPER}", "", functools.partial(_continuation, end=end),
            files=("jeopardy_all",) if name == "jeopardy" else (),
        )
        for name, (asks, end) in _CONTINUATIONS.items()
    ),
    *(multiple_choice(name, f"{asks} {_PAPER}", "", _choice) for name, asks in _CHOICES.items()),
)  # fmt: skip

# {part: (task, shots, chance)}
_PARTS = {
    "hellaswag_zeroshot": ("hellaswag", 0, 0.25),
    "jeopardy": ("jeopardy", 10, 0.0),
    "bigbench_qa_wikidata": ("bigbench_qa_wikidata", 10, 0.0),
    "arc_easy": ("arc_easy", 10, 0.25),
    "arc_challenge": ("arc_challenge", 10, 0.25),
    "copa": ("copa", 0, 0.5),
    "commonsense_qa": ("commonsense_qa", 10, 0.2),
    "piqa": ("piqa", 10, 0.5),
    "openbook_qa": ("openbookqa", 0, 0.25),
    "lambada_openai": ("lambada", 0, 0.0),
    "hellaswag": ("hellaswag", 10, 0.25),
    "winograd": ("wsc273", 0, 0.5),
    "winogrande": ("winogrande", 0, 0.5),
    "bigbench_dyck_languages": ("bigbench_dyck_languages", 10, 0.0),
    "agi_eval_lsat_ar": ("agi_eval_lsat_ar", 3, 0.2),
    "bigbench_cs_algorithms": ("bigbench_cs_algorithms", 10, 0.0),
    "bigbench_operators": ("bigbench_operators", 10, 0.0),
    "bigbench_repeat_copy_logic": ("bigbench_repeat_copy_logic", 10, 0.0),
    "squad": ("squad", 10, 0.0),
    "coqa": ("coqa", 0, 0.0),
    "boolq": ("boolq", 10, 0.62),
    "bigbench_language_identification": ("bigbench_language_identification", 10, 0.091),
}

CORE = Suite(
    "core", "The mean of 22 tasks' centred accuracies (Li et al. 2024, arXiv:2406.11794)",
    {name: Part(task, shots, "acc", chance) for name, (task, shots, chance) in _PARTS.items()},
    "core",
)  # fmt: skip

TASKS: tuple[Task | Suite, ...] = (*ROWS, CORE)
