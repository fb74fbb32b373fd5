"""Multiple choice: ARC, PIQA, HellaSwag, BoolQ, OpenBookQA, COPA, WinoGrande, WSC273, MMLU.

Prompts are those of lm-evaluation-harness. Each task reads the fields that the hub's data set has,
and those of llm-foundry's files: `query`, `choices`, `gold`, or `context_options`, `continuation`,
`gold`.
"""

from __future__ import annotations

import re
from typing import Any

from data.errors import DataError
from train.tasks.base import Document
from train.tasks.rows import fields
from train.tasks.rows.forms import multiple_choice


def is_foundry(record: Document) -> bool:
    """Whether a record has the fields of llm-foundry's multiple choice."""
    return fields.has(record, "query", "choices", "gold")


def foundry(record: Document) -> dict[str, Any]:
    """The document of a record of llm-foundry's multiple choice, with the query as its context."""
    choices = fields.texts(record, "choices")
    gold = fields.index(record, "gold", choices)
    return {"context": fields.text(record, "query"), "choices": choices, "gold": gold}


def labelled(record: Document, key: str) -> tuple[list[str], int]:
    """(choices, index of the right one) of choices with labels: {"text": […], "label": […]}, or a
    list of {"text": …, "label": …}, as TFDS has them."""
    listed = fields.value(record, "choices")
    if isinstance(listed, list):
        names = ("text", "label")
        listed = {name: [fields.value(choice, name) for choice in listed] for name in names}
    if not isinstance(listed, dict):
        raise DataError(f"'choices' should be an object, and is a {type(listed).__name__}")
    choices, labels = fields.texts(listed, "text"), fields.value(listed, "label")
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise DataError(f"the labels of {len(choices)} choices are {labels!r:.40}", "wrong_type")
    answer = fields.value(record, key)
    answer = answer.strip() if isinstance(answer, str) else answer
    if answer not in labels:
        raise DataError(f"{key!r} is {answer!r:.20}, which is none of {labels}", "wrong_type")
    return choices, labels.index(answer)


def arc(record: Document) -> list[Document]:
    """Clark et al. 2018."""
    if is_foundry(record):
        document = foundry(record)
        question = document["context"].removeprefix("Question: ").removesuffix("\n")
    else:
        choices, gold = labelled(record, "answerKey")
        document = {"choices": choices, "gold": gold}
        question = fields.text(record, "question")
    return [{**document, "context": f"Question: {question}\nAnswer:"}]


def piqa(record: Document) -> list[Document]:
    """Bisk et al. 2020."""
    if is_foundry(record):
        document = foundry(record)
        goal = document["context"].removeprefix("Question: ").removesuffix("\n")
    else:
        goal = fields.text(record, "goal")
        choices = [fields.text(record, "sol1"), fields.text(record, "sol2")]
        document = {"choices": choices, "gold": fields.index(record, "label", choices)}
    return [{**document, "context": f"Question: {goal}\nAnswer:"}]


_BRACKETS = re.compile(r"\[.*?\]")


def _wikihow(text: str) -> str:
    """A text without the marks that WikiHow's part of HellaSwag has."""
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def hellaswag(record: Document) -> list[Document]:
    """Zellers et al. 2019."""
    if is_foundry(record):
        return [foundry(record)]
    endings = fields.texts(record, "endings")
    start, end = fields.text(record, "ctx_a"), fields.text(record, "ctx_b").capitalize()
    return [
        {
            "context": _wikihow(f"{fields.text(record, 'activity_label')}: {start} {end}"),
            "choices": [_wikihow(ending) for ending in endings],
            "gold": fields.index(record, "label", endings),
        }
    ]


def boolq(record: Document) -> list[Document]:
    """Clark et al. 2019."""
    choices = ["no", "yes"]
    if is_foundry(record):
        document = foundry(record)
        passage, mark, question = (
            document["context"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        )
        if not mark or document["choices"] != choices:
            raise DataError(
                "'query' should be a passage and '\\nQuestion: …', with choices no, yes"
            )
        return [{**document, "context": f"{passage}\nQuestion: {question}\nAnswer:"}]
    passage, question = fields.text(record, "passage"), fields.text(record, "question")
    # SuperGLUE has a number, `label`; BoolQ itself a bool, `answer`.
    label = int(record["answer"]) if "answer" in record else fields.value(record, "label")
    return [
        {
            "context": f"{passage}\nQuestion: {question}?\nAnswer:",
            "choices": choices,
            "gold": fields.index({"label": label}, "label", choices),
        }
    ]


def openbookqa(record: Document) -> list[Document]:
    """Mihaylov et al. 2018."""
    if is_foundry(record):
        return [foundry(record)]
    choices, gold = labelled(record, "answerKey")
    return [{"context": fields.text(record, "question_stem"), "choices": choices, "gold": gold}]


_CONNECTORS = {"cause": "because", "effect": "therefore"}


def copa(record: Document) -> list[Document]:
    """Roemmele et al. 2011. The choices begin with a space after the delimiter's, as they do in
    lm-evaluation-harness."""
    if is_foundry(record):
        document = foundry(record)
        choices, gold = document["choices"], document["gold"]
        premise, _, connector = document["context"].rpartition(" ")
        if connector not in _CONNECTORS.values():
            raise DataError("'query' should end with because or therefore", "wrong_type")
        premise = premise.removesuffix(",")
    else:
        question = fields.text(record, "question")
        if question not in _CONNECTORS:
            raise DataError(f"'question' is {question!r:.20}; it must be cause or effect")
        premise, connector = fields.text(record, "premise").strip()[:-1], _CONNECTORS[question]
        choices = [fields.text(record, "choice1"), fields.text(record, "choice2")]
        gold = fields.index(record, "label", choices)
    choices = [f" {choice[:1].lower()}{choice[1:]}" for choice in choices]
    return [{"context": f"{premise} {connector}", "choices": choices, "gold": gold}]


def _partial(contexts: list[str], continuation: str, gold: int) -> list[Document]:
    """Partial contexts: the choices differ before the text that is scored (Trinh and Le 2018)."""
    return [{"contexts": contexts, "choices": [continuation] * len(contexts), "gold": gold}]


def _is_partial(record: Document) -> bool:
    return fields.has(record, "context_options", "continuation", "gold")


def winogrande(record: Document) -> list[Document]:
    """Sakaguchi et al. 2019."""
    if _is_partial(record):
        contexts = fields.texts(record, "context_options")
        gold = fields.index(record, "gold", contexts)
        return _partial(contexts, fields.text(record, "continuation"), gold)
    before, blank, after = fields.text(record, "sentence").partition("_")
    if not blank:
        raise DataError("'sentence' has no blank, _", "wrong_type")
    options = [fields.text(record, "option1"), fields.text(record, "option2")]
    # TFDS has a number from 0.
    by_label = "label" in record
    gold = fields.index(record, "label" if by_label else "answer", options, base=not by_label)
    return _partial([before + option for option in options], after.strip(), gold)


_POSSESSIVE = {"my", "his", "her", "our", "their"}
_CAPITALS = {"A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"}


def wsc(record: Document) -> list[Document]:
    """Levesque et al. 2012. The text that is scored begins with a space after the delimiter's, as
    it does in lm-evaluation-harness."""
    if _is_partial(record):
        contexts = fields.texts(record, "context_options")
        gold = fields.index(record, "gold", contexts)
        return _partial(contexts, " " + fields.text(record, "continuation"), gold)
    text, options = fields.text(record, "text").replace("  ", " "), fields.texts(record, "options")
    pronoun, place = fields.text(record, "pronoun"), fields.value(record, "pronoun_loc")
    if not isinstance(place, int) or not 0 <= place < len(text):
        raise DataError("'pronoun_loc' is no position in 'text'", "wrong_type")

    def put(option: str) -> str:
        option += "'s" if pronoun.lower() in _POSSESSIVE else ""
        first = option.split()[0]
        if text[place - 2] != "." and first in _CAPITALS:
            option = option.replace(first, first.lower())
        return text[:place] + option

    gold = fields.index(record, "label", options)
    return _partial([put(option) for option in options], text[place + len(pronoun) :], gold)


LETTERS = ["A", "B", "C", "D"]


def mmlu(record: Document) -> list[Document]:
    """Hendrycks et al. 2021."""
    choices = fields.texts(record, "choices")
    if len(choices) != len(LETTERS):
        raise DataError(f"'choices' has {len(choices)} texts, not 4", "wrong_type")
    subject = fields.text(record, "subject")
    listed = "\n".join(f"{a}. {choice}" for a, choice in zip(LETTERS, choices, strict=True))
    return [
        {
            "context": f"{fields.text(record, 'question').strip()}\n{listed}\nAnswer:",
            "choices": LETTERS,
            "gold": fields.index(record, "answer", LETTERS),
            "subject": subject,
            "preamble": "The following are multiple choice questions (with answers) about "
            f"{subject.replace('_', ' ')}.\n\n",
        }
    ]


TASKS = (
    multiple_choice(
        "arc_easy", "School science, the easy part (Clark et al. 2018, arXiv:1803.05457)",
        "hf:allenai/ai2_arc/ARC-Easy:test", arc, pool="hf:allenai/ai2_arc/ARC-Easy:train",
    ),
    multiple_choice(
        "arc_challenge", "School science, the hard part (Clark et al. 2018, arXiv:1803.05457)",
        "hf:allenai/ai2_arc/ARC-Challenge:test", arc,
        pool="hf:allenai/ai2_arc/ARC-Challenge:train",
    ),
    multiple_choice(
        "piqa", "Physical common sense, two choices (Bisk et al. 2020, arXiv:1911.11641)",
        "hf:baber/piqa:validation", piqa, pool="hf:baber/piqa:train",
    ),
    multiple_choice(
        "hellaswag", "Endings of descriptions (Zellers et al. 2019, arXiv:1905.07830)",
        "hf:Rowan/hellaswag:validation", hellaswag, pool="hf:Rowan/hellaswag:train",
    ),
    multiple_choice(
        "winogrande", "Pronouns, by partial contexts (Sakaguchi et al. 2019, arXiv:1907.10641)",
        "hf:allenai/winogrande/winogrande_xl:validation", winogrande, normalised=False,
        pool="hf:allenai/winogrande/winogrande_xl:train",
    ),
    multiple_choice(
        "wsc273", "Winograd schemas, by partial contexts (Levesque et al. 2012)",
        "hf:lighteval/winograd_wsc/wsc273:test", wsc, normalised=False, files=("winograd_wsc",),
    ),
    multiple_choice(
        "boolq", "Yes or no of a passage (Clark et al. 2019, arXiv:1905.10044)",
        "hf:aps/super_glue/boolq:validation", boolq, normalised=False,
        pool="hf:aps/super_glue/boolq:train",
    ),
    multiple_choice(
        "openbookqa", "Elementary science (Mihaylov et al. 2018, arXiv:1809.02789)",
        "hf:allenai/openbookqa/main:test", openbookqa, pool="hf:allenai/openbookqa/main:train",
        files=("openbook_qa",),
    ),
    multiple_choice(
        "copa", "Cause or effect (Roemmele et al. 2011)",
        "hf:aps/super_glue/copa:validation", copa, normalised=False,
        pool="hf:aps/super_glue/copa:train",
    ),
    multiple_choice(
        "mmlu", "57 subjects, four choices (Hendrycks et al. 2021, arXiv:2009.03300)",
        "hf:cais/mmlu/all:test", mmlu, normalised=False, pool="hf:cais/mmlu/all:dev",
        fixed=True, group="subject",
    ),
)  # fmt: skip
