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

from data.errors import DataError
from data.ranking.formats.base import Given, Imported, candidates_of, conversation, rank_of
from data.ranking.questions import Answer, Question, Recorded

_ANSWER = re.compile(r"(answer|response|text|completion|output)[_ -]?(\d)")
BUCKETS = ("1st", "2nd", "3rd", "4th")
_PROMPTS = ("messages", "prompt", "question", "instruction")


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
    question = Question(messages, candidates, data.get("tools") or [])
    given = [
        _given(annotation, list(texts), unread) for annotation in record.get("annotations") or []
    ]
    return Imported(question, [one for one in given if one])


def _texts(data: Mapping) -> tuple[dict[str, Any], set[str]]:
    """({name of an answer: text}, the fields that hold them)."""
    for name, value in data.items():
        if isinstance(value, list) and all(isinstance(v, dict) and "id" in v for v in value):
            return {str(v["id"]): v.get("body") or v.get("title") for v in value}, {name}
    named = sorted((name for name in data if _ANSWER.fullmatch(name)), key=lambda n: n[-1])
    return {name: data[name] for name in named}, set(named)


def _given(annotation: Mapping, names: list[str], unread: Counter) -> Given | None:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    name = str(annotation.get("created_username") or by or "someone")
    answer, is_answer = Answer(), bool(annotation.get("was_cancelled"))
    for result in annotation.get("result") or []:
        kind, tag, value = result.get("type"), result.get("from_name"), result.get("value") or {}
        if kind == "pairwise":
            answer.rank = rank_of([[names[value.get("selected") != "left"]]], names)
        elif kind == "ranker":
            answer.rank = rank_of(_levels(value.get("ranker"), tag), names)
        elif kind == "textarea" and tag in ("ideal", "comment"):
            setattr(answer, tag, "\n".join(value.get("text") or []))
        elif kind == "choices" and tag == "unsafe":
            answer.unsafe = [names.index(n) for n in value.get("choices") or [] if n in names]
        else:
            unread[f"a result of type {kind} ({tag})"] += 1
            continue
        is_answer = True
    answer.seconds = float(annotation.get("lead_time") or 0)
    return Given(name, answer, str(annotation.get("created_at") or "")) if is_answer else None


def _levels(ranker: Any, tag: str) -> list[list[str]]:
    """The names on each level of a ranker: its buckets, or without buckets one name each."""
    if isinstance(ranker, dict) and ranker.keys() != {tag}:
        return [level for name, level in ranker.items() if name != "_"]
    ordered = ranker[tag] if isinstance(ranker, dict) else ranker
    return [[name] for name in ordered]


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
