"""Answers as files: preferences for `reward` and `dpo`, ideal answers for `sft`, every answer.

`export(store, "prefs.jsonl")` writes

    prefs.jsonl          schema preference: the questions to which an answer is preferred
    prefs.ideal.jsonl    schema chat: the ideal answers, if there are any
    prefs.answers.jsonl  every answer: ties, skipped and gold questions too
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.atomic import write_atomically
from data.ranking.consensus import consensus
from data.ranking.questions import Question, Recorded, is_right
from data.ranking.store import Store


class Exported(NamedTuple):
    """The result of an export.

    Attributes:
      answers: by people, without those of gold questions. preferences, ideal: records of the two
        files. undecided: answered questions without a preference: all tied, or skipped.
      paths: files that were written.
    """

    answers: int
    preferences: int
    ideal: int
    undecided: int
    paths: tuple[Path, ...]


def export(store: Store, path: str | Path, leave_out: Collection[str] = ()) -> Exported:
    """Writes the files of this module's docstring, each atomically.

    Args:
      path: of the preferences; it ends in .jsonl. leave_out: annotators whose answers are not used.
    """
    path = Path(path)
    groups = grouped(store, leave_out)
    asked = [(q, answers) for q, answers in groups if q.gold is None]
    preferences = [r for q, answers in asked if (r := preference(q, answers))]
    ideal = [record for group in groups for record in ideal_chats(*group)]
    everything = [answer_record(q, answer) for q, answers in groups for answer in answers]
    files = {path: preferences, path.with_suffix(".answers.jsonl"): everything}
    ideal_path = path.with_suffix(".ideal.jsonl")
    if ideal or ideal_path.exists():
        files[ideal_path] = ideal
    for file, records in files.items():
        write_atomically(file, to_lines(records))
    judged = sum(bool(answers) for _, answers in asked)
    count = sum(len(answers) for _, answers in asked)
    return Exported(count, len(preferences), len(ideal), judged - len(preferences), tuple(files))


def grouped(store: Store, leave_out: Collection[str] = ()) -> list[tuple[Question, list[Recorded]]]:
    """(question, its answers) of all questions, in order."""
    answers: dict[int, list[Recorded]] = {}
    for answer in store.answers():
        if answer.annotator not in leave_out:
            answers.setdefault(answer.question, []).append(answer)
    return [(question, answers.get(question.id, [])) for question in store.questions()]


def to_lines(records: Iterable[dict]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def preference(question: Question, answers: Sequence[Recorded]) -> dict[str, Any] | None:
    """The preference of a question, best answer first; None without one."""
    ranks = [a.answer.rank for a in answers if a.answer.rank is not None]
    if not ranks:
        return None
    rank, confidence = consensus(ranks)
    if len(set(rank)) == 1:
        return None
    order = sorted(range(len(rank)), key=lambda i: rank[i])
    record = _asked(question, order)
    record["rank"] = [rank[i] for i in order]
    if len(ranks) > 1:
        record["confidence"] = round(confidence, 4)
    record["annotations"] = [_said(answer, order) for answer in answers]
    return record


def ideal_chats(question: Question, answers: Sequence[Recorded]) -> list[dict[str, Any]]:
    """The conversations that end with an annotator's ideal answer."""
    tools = {"tools": question.tools} if question.tools else {}
    return [
        {"messages": [*question.messages, {"role": "assistant", "content": a.answer.ideal}]}
        | tools
        | {"question": question.id, "annotator": a.annotator, "time": a.time}
        for a in answers
        if a.answer.ideal.strip()
    ]


def answer_record(question: Question, answer: Recorded) -> dict[str, Any]:
    """One answer with its question."""
    order = list(range(len(question.candidates)))
    record = _asked(question, order) | _said(answer, order)
    if question.gold is not None:
        record |= {"gold": question.gold, "right": is_right(answer.answer, question.gold)}
    return record


def _asked(question: Question, order: Sequence[int]) -> dict[str, Any]:
    """The fields of a record about what was asked, candidates in an order."""
    messages = question.messages
    plain = len(messages) == 1 and messages[0].keys() == {"role", "content"}
    record: dict[str, Any] = {"prompt": messages[0]["content"] if plain else messages}
    if question.tools:
        record["tools"] = question.tools
    record["responses"] = [question.candidates[i].text for i in order]
    record["sources"] = [question.candidates[i].source for i in order]
    return record | {"question": question.id}


def _said(answer: Recorded, order: Sequence[int]) -> dict[str, Any]:
    """The fields of a record about one person's answer, its candidates numbered as in `order`."""
    said, places = answer.answer, {number: place for place, number in enumerate(order)}
    record: dict[str, Any] = {"annotator": answer.annotator, "time": answer.time}
    record["rank"] = None if said.rank is None else [said.rank[i] for i in order]
    record["seconds"] = said.seconds
    if said.order:
        record["shown"] = [places[i] for i in said.order]
    if said.unsafe:
        record["unsafe"] = [places[i] for i in said.unsafe]
    return record | {n: v for n in ("comment", "ideal") if (v := getattr(said, n).strip())}
