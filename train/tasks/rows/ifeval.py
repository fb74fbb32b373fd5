"""IFEval: instructions that rules can check (Zhou et al. 2023, arXiv:2311.07911).

The prompts, rules and four accuracies are those of lm-evaluation-harness, with these differences.
`language:response_language` needs a language detector, and is left out: such an instruction is
counted as `unchecked`. The case of letters is checked without detecting English. Sentences and
words are found by patterns, not by NLTK.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.errors import DataError
from train.tasks import metrics
from train.tasks.base import (
    Answer,
    Document,
    Generation,
    Metric,
    Outcome,
    Request,
    Response,
    Task,
)
from train.tasks.rows import fields
from train.tasks.rows.forms import prompt as prompt_of

# (answer, the instruction's arguments) -> whether it follows
Rule = Callable[[str, Mapping[str, Any]], bool]

_NOT_AFTER = r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bMrs)"
_SENTENCE_END = re.compile(_NOT_AFTER + r"[.!?]+[\"')\]]*(?=\s|$)")


def _compare(count: int, arguments: Mapping[str, Any], relation: str, limit: str) -> bool:
    """Whether a count is "at least" or "less than" a limit."""
    if arguments[relation] == "less than":
        return count < arguments[limit]
    return count >= arguments[limit]


def _sentences(text: str) -> int:
    """The number of sentences; a rest without a full stop is one."""
    ends = [*_SENTENCE_END.finditer(text)]
    rest = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(rest.strip())


def _highlights(text: str) -> int:
    """Spans *of this form*, and **of this form**, that are not blank."""
    single = [match.strip("*").strip() for match in re.findall(r"\*[^\n\*]*\*", text)]
    double = [match[2:-2].strip() for match in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(map(bool, single + double))


def _paragraphs(text: str, arguments: Mapping[str, Any]) -> bool:
    """Paragraphs divided by ***; only the first and the last may be blank."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    filled = sum(map(bool, parts))
    return all(parts[1:-1]) and filled == arguments["num_paragraphs"]


def _first_word(text: str, arguments: Mapping[str, Any]) -> bool:
    """The number of paragraphs divided by blank lines, and the first word of one."""
    paragraphs, nth = text.split("\n\n"), arguments["nth_paragraph"]
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    words = paragraphs[nth - 1].split() if nth <= count else []
    if not words:
        return False
    word = re.split("[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower()
    return count == arguments["num_paragraphs"] and word == arguments["first_word"].lower()


def _postscript(text: str, arguments: Mapping[str, Any]) -> bool:
    marker = arguments["postscript_marker"]
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, marker.lower()), text.lower()))


def _bullets(text: str) -> int:
    starred = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(starred) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))


def _sections(text: str, arguments: Mapping[str, Any]) -> bool:
    pattern = rf"\s?{arguments['section_spliter']}\s?\d+\s?"
    return len(re.split(pattern, text)) - 1 >= arguments["num_sections"]


def _is_json(text: str) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(text.strip())
    except ValueError:
        return False
    return True


def _two_answers(text: str) -> bool:
    """Two different answers divided by ******; only the first and the last part may be blank."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _has(pattern: str, text: str) -> bool:
    return bool(re.search(pattern, text, re.IGNORECASE))


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


RULES: dict[str, Rule] = {
    "keywords:existence": lambda t, a: all(_has(word, t) for word in a["keywords"]),
    "keywords:frequency": lambda t, a: _compare(
        len(re.findall(a["keyword"].strip(), t, re.IGNORECASE)), a, "relation", "frequency"
    ),
    "keywords:forbidden_words": lambda t, a: not any(
        _has(rf"\b{word}\b", t) for word in a["forbidden_words"]
    ),
    "keywords:letter_frequency": lambda t, a: _compare(
        t.lower().count(a["letter"].strip().lower()), a, "let_relation", "let_frequency"
    ),
    "length_constraints:number_sentences": lambda t, a: _compare(
        _sentences(t), a, "relation", "num_sentences"
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda t, a: _compare(
        len(re.findall(r"\w+", t)), a, "relation", "num_words"
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, a: (
        len(re.findall(r"\[.*?\]", t)) >= a["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda t, a: _bullets(t) == a["num_bullets"],
    "detectable_format:constrained_response": lambda t, a: any(
        answer in t for answer in ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    ),
    "detectable_format:number_highlighted_sections": lambda t, a: (
        _highlights(t) >= a["num_highlights"]
    ),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": lambda t, a: _is_json(t),
    "detectable_format:title": lambda t, a: any(
        title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", t)
    ),
    "combination:two_responses": lambda t, a: _two_answers(t),
    "combination:repeat_prompt": lambda t, a: (
        t.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda t, a: (
        t.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda t, a: _quoted(t),
    "change_case:capital_word_frequency": lambda t, a: _compare(
        sum(word.isupper() for word in re.findall(r"[\w'-]+", t)),
        a, "capital_relation", "capital_frequency",
    ),
    "change_case:english_capital": lambda t, a: t.isupper(),
    "change_case:english_lowercase": lambda t, a: t.islower(),
    "punctuation:no_comma": lambda t, a: "," not in t,
}  # fmt: skip
UNCHECKED = {"language:response_language"}


def ifeval(record: Document) -> list[Document]:
    """A prompt and its instructions."""
    names, arguments = fields.texts(record, "instruction_id_list"), fields.value(record, "kwargs")
    if not isinstance(arguments, list) or len(arguments) != len(names):
        raise DataError(f"'kwargs' should be a list of {len(names)} objects, one an instruction")
    for name in names:
        if name not in RULES and name not in UNCHECKED:
            raise DataError(f"no rule for the instruction {name!r:.60}", "wrong_type")
    given = [{k: v for k, v in a.items() if v is not None} for a in arguments]
    for name, own in zip(names, given, strict=True):
        if name in RULES:
            _try(name, own)
    prompt = fields.text(record, "prompt")
    return [{"context": prompt, "instructions": names, "arguments": given}]


def _try(name: str, arguments: Mapping[str, Any]) -> None:
    """Raises DataError for arguments that a rule cannot be applied with."""
    try:
        RULES[name]("x", arguments)
    except KeyError as error:
        raise DataError(f"instruction {name} lacks its argument {error}", "missing_field") from None
    except (TypeError, AttributeError, re.error) as error:
        raise DataError(f"arguments of {name}: {error}", "wrong_type") from None


def loosened(text: str) -> list[str]:
    """The answer, without its first and last lines, and each of these without stars."""
    lines = text.split("\n")
    cuts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _follows(texts: Sequence[str], name: str, arguments: Mapping[str, Any]) -> bool:
    return any(text.strip() and RULES[name](text, arguments) for text in texts)


def _outcome(document: Document, response: Response) -> Outcome:
    """prompt_strict, prompt_loose: 1 if all instructions are followed, loosely if by one of the
    `loosened` answers; and the numbers of instructions that are followed, of those that are
    checked, and of those that are not. An item without one that is checked has these alone."""
    (answer,) = (part for part in response if isinstance(part, Answer))
    pairs = zip(document["instructions"], document["arguments"], strict=True)
    checked = [(name, arguments) for name, arguments in pairs if name in RULES]
    unchecked = len(document["instructions"]) - len(checked)
    if not checked:
        return {"checked": 0, "unchecked": unchecked}
    strict = [_follows([answer.text], *pair) for pair in checked]
    loose = [_follows(loosened(answer.text), *pair) for pair in checked]
    return {
        "prompt_strict": float(all(strict)), "prompt_loose": float(all(loose)),
        "strict": sum(strict), "loose": sum(loose),
        "checked": len(checked), "unchecked": unchecked,
    }  # fmt: skip


def _request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
    del examples
    return Generation(prompt_of(document["context"], (), chat), max_new_tokens=1280)


def _by_instruction(kind: str) -> Metric:
    """The share of instructions that are followed, over all items."""

    def estimate(outcomes: Sequence[Outcome]):
        scored = [outcome for outcome in outcomes if outcome["checked"]]
        return metrics.ratio(metrics.column(scored, kind), metrics.column(scored, "checked"))

    return Metric(estimate)


TASKS = (
    Task(
        "ifeval", "Instructions that rules check (Zhou et al. 2023, arXiv:2311.07911)",
        "hf:google/IFEval:train", _request, _outcome,
        {
            "prompt_strict": metrics.mean("prompt_strict"),
            "instruction_strict": _by_instruction("strict"),
            "prompt_loose": metrics.mean("prompt_loose"),
            "instruction_loose": _by_instruction("loose"),
            "unchecked": metrics.mean("unchecked", higher_is_better=False),
        },
        "generation", ifeval,
    ),
)  # fmt: skip
