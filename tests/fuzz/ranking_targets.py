"""Fuzz targets: files of prompts, answers and exports of other tools, for people to rank."""

from __future__ import annotations

import json
from random import Random

from data.ranking import reading
from data.ranking.store import Store
from tests.fuzz import mutate
from tests.fuzz.engine import Target

PROMPT = [{"role": "user", "content": "Why?"}]
RECORDS = [
    {"prompt": "q"},
    {"prompt": PROMPT, "responses": ["a", "b", "c"], "sources": ["x", {"run": "y"}, "z"]},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"data": {"prompt": "q", "answer1": "a", "answer2": "b", "tools": []}, "annotations": [
        {"completed_by": {"email": "ana"}, "lead_time": 2.5, "created_at": "2026", "result": [
            {"type": "pairwise", "from_name": "pw", "value": {"selected": "left"}}]}]},
    {"data": {"messages": PROMPT, "items": [{"id": "0", "body": "a"}, {"id": "1", "body": "b"}],
              "sources": {"0": {"run": "x"}}}, "annotations": [
        {"completed_by": 1, "result": [
            {"type": "ranker", "from_name": "rank", "value": {"ranker": {"1st": ["1", "0"]}}},
            {"type": "textarea", "from_name": "ideal", "value": {"text": ["c"]}},
            {"type": "choices", "from_name": "unsafe", "value": {"choices": ["0"]}}]}]},
    {"fields": {"prompt": "q", "answer-1": "a", "answer-2": "b"},
     "metadata": {"annotators": '{"u": "ana"}', "ties": '{"v": [0, 0]}'},
     "responses": {"ranking": [{"value": ["answer-2", "answer-1"], "user_id": "u"},
                               {"value": [{"value": "answer-1", "rank": 1}], "user_id": "w"}],
                   "comment": [{"value": "c", "user_id": "u"}]}},
]  # fmt: skip


def _files(rng: Random, good: bytes, folder) -> None:
    path = folder / "questions.json"
    path.write_bytes(mutate.damaged_json(rng, good))
    read = reading.read(str(path), gold=rng.random() < 0.2)
    with Store(folder / f"{rng.random()}.db") as store:
        for number, answers in zip(store.add(read.questions), read.answers, strict=True):
            for i, given in enumerate(answers):
                store.record(f"{given.annotator}{i}", number, given.answer, time=given.time)


TARGETS = [Target("ranking_files", lambda folder: json.dumps(RECORDS).encode(), _files, 2)]
