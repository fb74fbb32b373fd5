"""Label Studio's JSON: a task holds `data` and `annotations`.

Written are tasks for this labelling configuration:

    <View>
      <Paragraphs name="chat" value="$messages" layout="dialogue" nameKey="role" textKey="content"/>
      <List name="answers" value="$items"/>
      <Ranker name="rank" toName="answers">
        <Bucket name="1st"/> <Bucket name="2nd"/> <Bucket name="3rd"/> <Bucket name="4th"/>
      </Ranker>
      <Choices name="unsafe" toName="chat" choice="multiple">
        <Choice value="0"/> <Choice value="1"/> <Choice value="2"/> <Choice value="3"/>
      </Choices>
      <TextArea name="ideal" toName="chat"/>
      <TextArea name="comment" toName="chat"/>
    </View>

Read are those, and tasks with `prompt` (a text, or messages) and `answer1`, `answer2` (or `text1`,
`response1`, …) or a list of `{"id", "body"}`, with results of Pairwise and of Ranker. A ranker's
buckets are levels, in the order of the configuration: answers in one are tied, and those in none
come last. A cancelled annotation is a skipped question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from data.errors import DataError
from data.ranking.formats.base import (
    Given,
    Imported,
    candidates_of,
    conversation,
    converted,
    rank_of,
)
from data.ranking.questions import Answer, Question, Recorded
from data.schemas.messages import objects_of

_ANSWER = re.compile(r"(answer|response|text|completion|output)[_ -]?(\d)")
BUCKETS = ("1st", "2nd", "3rd", "4th")
_PROMPTS = ("messages", "prompt", "question", "instruction")


class _Result(msgspec.Struct):
    type: str = ""
    from_name: str | None = None
    value: dict[str, Any] = {}


class _Annotation(msgspec.Struct):
    completed_by: int | str | dict[str, Any] | None = None
    created_username: str | None = None
    created_at: str | None = None
    lead_time: float | None = None
    was_cancelled: bool | None = None
    result: list[_Result] | None = None


def is_record(record: Mapping) -> bool:
    """Whether a record is a task."""
    return isinstance(record.get("data"), dict)


def imported(record: Mapping, unread: Counter) -> Imported:
    """The question and the answers of a task.

    Args:
      unread: counts what is not used, by name.

    Raises:
      DataError: it has no prompt or no answers, or an annotation is malformed.
    """
    data = record["data"]
    prompt = next((name for name in _PROMPTS if data.get(name)), "")
    texts, used = _texts(data)
    if not prompt or len(texts) < 2:
        raise DataError(
            "a task of Label Studio needs data.prompt and the answers to compare, as data.answer1 "
            "and data.answer2, or a list of {id, body}", "missing_field",
        )  # fmt: skip
    others = data.keys() - {prompt, "prompt", "sources", "tools", *used}
    unread.update(f"data.{name}" for name in others)
    candidates = candidates_of(texts, data.get("sources"))
    messages = conversation(data[prompt], f"data.{prompt}")
    question = Question(messages, candidates, objects_of(data.get("tools"), "data.tools"))
    annotations = converted(record.get("annotations") or [], list[_Annotation], "annotations")
    given = [_given(annotation, list(texts), unread) for annotation in annotations]
    return Imported(question, [one for one in given if one])


def _texts(data: Mapping) -> tuple[dict[str, Any], set[str]]:
    """({name of an answer: text}, the fields that hold them)."""
    for name, value in data.items():
        items = value if isinstance(value, list) else []
        if items and all(isinstance(item, dict) and "id" in item for item in items):
            texts = {str(item["id"]): item.get("body") or item.get("title") for item in items}
            return texts, {name}
    named = sorted((name for name in data if _ANSWER.fullmatch(name)), key=lambda n: n[-1])
    return {name: data[name] for name in named}, set(named)


def _given(annotation: _Annotation, names: list[str], unread: Counter) -> Given | None:
    by: Any = annotation.completed_by
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    name = str(annotation.created_username or by or "someone")
    answer, is_answer = Answer(), bool(annotation.was_cancelled)
    for result in annotation.result or []:
        tag, value = result.from_name or "", result.value
        if result.type == "pairwise":
            if len(names) != 2 or value.get("selected") not in ("left", "right"):
                raise DataError("a pairwise result selects left or right of two", "bad_rank")
            answer.rank = rank_of([[names[value["selected"] == "right"]]], names)
        elif result.type == "ranker":
            answer.rank = rank_of(_levels(value.get("ranker"), tag), names)
        elif result.type == "textarea" and tag in ("ideal", "comment"):
            lines = converted(value.get("text") or [], list[str], tag)
            setattr(answer, tag, "\n".join(lines))
        elif result.type == "choices" and tag == "unsafe":
            chosen = converted(value.get("choices") or [], list[str], tag)
            answer.unsafe = [names.index(name) for name in chosen if name in names]
        else:
            unread[f"a result of type {result.type} ({tag})"] += 1
            continue
        is_answer = True
    answer.seconds = annotation.lead_time or 0.0
    return Given(name, answer, annotation.created_at or "") if is_answer else None


def _levels(ranker: Any, tag: str) -> list[list[str]]:
    """The names on each level of a ranker: its buckets, or without buckets one name each."""
    form = dict[str, list[str]] if isinstance(ranker, dict) else list[str]
    value: Any = converted(ranker, form, "ranker")
    if isinstance(value, dict) and value.keys() != {tag}:
        return [level for name, level in value.items() if name != "_"]
    return [[name] for name in (value[tag] if isinstance(value, dict) else value)]


def exported(question: Question, answers: list[Recorded]) -> dict[str, Any]:
    """A task. Annotators are named in `created_username`, as in Label Studio's own exports; it
    imports annotations as those of the user who imports them."""
    items = [
        {"id": str(i), "title": f"Answer {i + 1}", "body": candidate.text}
        for i, candidate in enumerate(question.candidates)
    ]
    data = {
        "messages": question.messages,
        "items": items,
        "sources": {str(i): c.source for i, c in enumerate(question.candidates) if c.source},
    }
    if question.tools:
        data["tools"] = question.tools
    return {"id": question.id, "data": data, "annotations": [_annotation(a) for a in answers]}


def _annotation(recorded: Recorded) -> dict[str, Any]:
    answer, results = recorded.answer, []

    def add(name: str, target: str, kind: str, value: Any) -> None:
        place = {"from_name": name, "to_name": target, "type": kind}
        results.append({**place, "value": {kind if kind != "textarea" else "text": value}})

    if answer.rank is not None:
        ranker: dict[str, list[str]] = {"_": []}  # the list from which they were taken
        for number, rank in sorted(enumerate(answer.rank), key=lambda pair: pair[1]):
            ranker.setdefault(BUCKETS[rank], []).append(str(number))
        add("rank", "answers", "ranker", ranker)
    for name in ("ideal", "comment"):
        if text := getattr(answer, name):
            add(name, "chat", "textarea", [text])
    if answer.unsafe:
        add("unsafe", "chat", "choices", list(map(str, answer.unsafe)))
    return {
        "created_username": recorded.annotator, "created_at": recorded.time,
        "lead_time": answer.seconds, "was_cancelled": answer.rank is None, "result": results,
    }  # fmt: skip
