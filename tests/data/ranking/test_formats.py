"""Files in and out: prompts, answers to compare, Label Studio, Argilla, what training reads."""

import json
from pathlib import Path

import pytest

from data.errors import DataError
from data.ranking import reading
from data.ranking.export import export, grouped
from data.ranking.formats import argilla, label_studio
from data.ranking.questions import Answer, Candidate, Question
from data.ranking.store import Store
from data.read.sources import read as read_examples

EXAMPLES = Path(__file__).parents[3] / "examples"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why?"},
]


def question(text, count=3, **fields):
    candidates = [Candidate(f"{text} {i}", {"run": "r", "step": i}) for i in range(count)]
    return Question(CHAT[:1] + [{"role": "user", "content": text}], candidates, **fields)


@pytest.fixture
def store(tmp_path):
    """Questions 1 to 6: ranked, disputed, tied, skipped, flagged with words, gold."""
    with Store(tmp_path / "prefs.db") as store:
        store.add([question("q"), question("r", 2), question("s"), question("t"), question("u", 2)])
        store.add([question("gold", 2, gold=[0, 1])])
        said = {
            1: {"ana": Answer(rank=[2, 0, 1], order=[1, 0, 2], seconds=3.5)},
            2: {"ana": Answer(rank=[0, 1]), "ben": Answer(rank=[0, 1]), "eve": Answer(rank=[1, 0])},
            3: {"ana": Answer(rank=[0, 0, 0])},
            4: {"ben": Answer()},
            5: {"ben": Answer([1, 0], [0], "rude", "A better one.")},
            6: {"ana": Answer(rank=[1, 0])},
        }
        for number, answers in said.items():
            for name, answer in answers.items():
                store.record(name, number, answer)
        yield store


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_training_reads(store, tmp_path):
    exported = export(store, tmp_path / "prefs.jsonl")
    assert (exported.answers, exported.preferences, exported.undecided) == (7, 3, 2)
    examples = read_examples(str(tmp_path / "prefs.jsonl"), "preference").examples
    first, second, third = examples
    assert first["messages"] == question("q").messages
    assert first["responses"] == ["q 1", "q 2", "q 0"] and first["rank"] == [0, 1, 2]
    assert second["confidence"] == pytest.approx(2 / 3, abs=1e-4) and "confidence" not in first
    assert third["responses"] == ["u 1", "u 0"]
    record = lines(tmp_path / "prefs.jsonl")[0]
    assert record["sources"][0] == {"run": "r", "step": 1}
    (said,) = record["annotations"]
    assert said["annotator"] == "ana" and said["time"] and said["seconds"] == 3.5
    assert said["rank"] == [0, 1, 2] and said["shown"] == [0, 2, 1]
    (ideal,) = read_examples(str(tmp_path / "prefs.ideal.jsonl"), "chat").examples
    assert ideal["messages"][-1] == {"role": "assistant", "content": "A better one."}
    every = lines(tmp_path / "prefs.answers.jsonl")
    assert len(every) == 8 and [r["right"] for r in every if "gold" in r] == [False]
    assert [r["rank"] for r in every if r["question"] in (3, 4)] == [[0, 0, 0], None]


def test_an_annotator_left_out(store, tmp_path):
    export(store, tmp_path / "prefs.jsonl", leave_out=["eve", "ana"])
    records = lines(tmp_path / "prefs.jsonl")
    assert {a["annotator"] for r in records for a in r["annotations"]} == {"ben"}


@pytest.mark.parametrize("form", [label_studio, argilla])
def test_what_is_written_is_read_back(store, tmp_path, form):
    groups = [group for group in grouped(store) if group[0].gold is None]
    records = [form.exported(*group) for group in groups]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(records))
    read = reading.read(str(path))
    assert not read.unread
    for (asked, answers), question, given in zip(groups, read.questions, read.answers, strict=True):
        assert question.messages == asked.messages and question.candidates == asked.candidates
        # Argilla has no skipped question and no flag.
        kept = {a.annotator: a.answer for a in answers}
        if form is argilla:
            kept = {n: Answer(a.rank, [], a.comment, a.ideal) for n, a in kept.items() if a.rank}
        for name, answer in kept.items():
            (own,) = [g.answer for g in given if g.annotator == name]
            own.order, own.seconds, answer.order = [], answer.seconds, []
            assert own == answer


def test_an_export_of_label_studio(tmp_path):
    pair = {"prompt": "Why?", "answer1": "Because.", "answer2": "No idea.", "topic": "x"}
    ranked = {"prompt": CHAT, "items": [{"id": x, "body": f"body {x}"} for x in "abc"]}
    tasks = [
        {"id": 1, "data": pair, "annotations": [
            {"completed_by": {"email": "ana@example.com"}, "created_at": "2026-01-01T00:00:00Z",
             "lead_time": 2.5,
             "result": [{"type": "pairwise", "from_name": "pw", "value": {"selected": "right"}},
                        {"type": "rating", "from_name": "stars", "value": {"rating": 3}}]},
            {"completed_by": 7, "was_cancelled": True, "result": []}]},
        {"id": 2, "data": ranked, "annotations": [
            {"completed_by": 7, "result": [
                {"type": "ranker", "value": {"ranker": {"good": ["b", "c"], "bad": ["a"]}}}]},
            {"completed_by": 8, "result": [
                {"type": "ranker", "value": {"ranker": ["c", "a", "b"]}}]},
            {"completed_by": 9, "result": [
                {"type": "ranker", "from_name": "rank",
                 "value": {"ranker": {"rank": ["c", "b", "a"]}}}]}]},
    ]  # fmt: skip
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(tasks))
    read = reading.read(str(path))
    first, second = read.answers
    assert [(g.annotator, g.answer.rank) for g in first] == [("ana@example.com", [1, 0]),
                                                             ("7", None)]  # fmt: skip
    assert first[0].time == "2026-01-01T00:00:00Z" and first[0].answer.seconds == 2.5
    assert [g.answer.rank for g in second] == [[1, 0, 0], [1, 2, 0], [2, 1, 0]]
    assert read.questions[1].messages == CHAT
    assert read.unread == {"data.topic": 1, "a result of type rating (stars)": 1}
    tasks[1]["annotations"][0]["result"][0]["value"]["ranker"] = {"good": ["z"]}
    path.write_text(json.dumps(tasks))
    with pytest.raises(DataError, match=r"tasks.json\[1\].*'z'"):
        reading.read(str(path))


def test_an_export_of_argilla(tmp_path):
    record = {
        "id": "x", "fields": {"prompt": "Why?", "reply-1": "Because.", "reply-2": "No idea."},
        "metadata": {"source": "web"}, "suggestions": {"ranking": {"value": ["reply-1"]}},
        "responses": {"ranking": [{"value": ["reply-2", "reply-1"], "user_id": "u1"}],
                      "quality": [{"value": 4, "user_id": "u1"}]},
        "vectors": {}, "_server_id": None,
    }  # fmt: skip
    path = tmp_path / "records.json"
    path.write_text(json.dumps([record]))
    read = reading.read(str(path))
    ((given,),) = read.answers
    assert given.annotator == "u1" and given.answer.rank == [1, 0]
    value = [{"value": "reply-1", "rank": 2}, {"value": "reply-2", "rank": 1}]  # of Argilla 1
    record["responses"]["ranking"][0]["value"] = value
    path.write_text(json.dumps([record]))
    assert reading.read(str(path)).answers[0][0].answer.rank == [1, 0]
    assert read.unread == {"metadata.source": 1, "suggestions.ranking": 1, "responses.quality": 1}


def test_prompts_and_answers_to_compare(tmp_path):
    path = tmp_path / "prompts.jsonl"
    records = [
        {"prompt": "q"},
        {"messages": CHAT},
        {"prompt": "r", "responses": ["x", "y", "z"], "sources": ["a", "b", {"run": "c"}]},
        {"prompt": "s", "chosen": "good", "rejected": "bad", "topic": 1},
        {"prompt": "q"},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    read = reading.read(str(path))
    assert [len(q.candidates) for q in read.questions] == [0, 0, 3, 2] and read.repeated == 1
    assert [c.source for c in read.questions[2].candidates] == [{"name": "a"}, {"name": "b"},
                                                                {"run": "c"}]  # fmt: skip
    assert read.unread["topic"] == 1 and read.questions[0].where.endswith("prompts.jsonl:1")
    path.write_text(json.dumps(records[3]))
    assert reading.read(str(path), gold=True).questions[0].gold == [0, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no prompt"),
        ('{"text": "x"}', "prompts.jsonl:1.*prompt"),
        ('{"prompt": "q", "responses": ["a", "b", "c", "d", "e"]}', "5 answers to compare"),
        ('{"prompt": "q", "responses": ["a", " "]}', "prompts.jsonl:1"),
        ('{"data": {"prompt": "q"}}', "Label Studio needs"),
        ('{"fields": {"prompt": "q"}, "responses": {}}', "Argilla needs"),
        ("{", "prompts.jsonl:1"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, match):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        reading.read(str(path))
    path.write_text('{"prompt": "q"}')
    with pytest.raises(DataError, match=r"prompts.jsonl:1.*right ranking"):
        reading.read(str(path), gold=True)


def test_prompts_are_those_of_conversations_that_people_had():
    source = f"zendesk:{EXAMPLES}/exports/tickets.json"
    read = reading.read(source)
    assert len(read.questions) == 5 and read.changes["private notes dropped"] == 2
    assert all(q.messages[-1]["role"] == "user" and not q.candidates for q in read.questions)
    assert "neighbour at number 14" not in read.questions[0].messages[-1]["content"]
    solved = {"keep": {"status": "solved"}}
    assert len(reading.read(source, transforms=solved).questions) == 2


def test_fields_are_named_by_templates(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q?", "good": "a", "bad": "b"}\n')
    names = {"prompt": "{question}", "chosen": "{good}", "rejected": "{bad}"}
    (question,) = reading.read(str(path), names).questions
    assert [c.text for c in question.candidates] == ["a", "b"]
    with pytest.raises(DataError, match="no field 'prompt'"):
        reading.read(str(path))
