"""The server of the pages: who may ask what, answers saved before it says so, what it refuses."""

import json
import time

import pytest
from starlette.testclient import TestClient

import loopback
from data.ranking import server
from data.ranking.export import export
from data.ranking.questions import Answer, Candidate, Question
from data.ranking.store import Store

TEXTS = ["<b>first</b>", "second", "third"]


@pytest.fixture
def room(tmp_path):
    with Store(tmp_path / "prefs.db") as store:
        questions = [
            Question(
                [{"role": "user", "content": f"q{i}"}],
                [Candidate(f"{t} {i}", {"run": "secret", "ended": t != "third"}) for t in TEXTS],
            )
            for i in range(3)
        ]
        store.add(questions)
        path = tmp_path / "prefs.jsonl"
        yield server.Room(store, ["ana", "ben"], lambda: export(store, path), each=2)


class Person:
    """An annotator in a browser."""

    def __init__(self, room, name, tab="t"):
        self.client = TestClient(server.build(room), base_url="http://127.0.0.1:8001")
        self.headers = {"authorization": f"Bearer {room.store.token(name)}", "x-tab": tab}

    def get(self, path):
        return self.client.get(path, headers=self.headers)

    def post(self, body, path="/api/answer"):
        return self.client.post(path, json=body, headers=self.headers)


def test_a_full_disk_loses_nothing_and_says_so(room):
    ana = Person(room, "ana")
    question = ana.get("/api/next").json()["question"]
    pages = room.store._rows("PRAGMA page_count")[0][0]
    room.store._rows(f"PRAGMA max_page_count = {pages}")
    refused = ana.post(body(question, [0, 1, 2], comment="long " * 9000))
    assert refused.status_code == 503 and refused.json()["error"].endswith("disk is full")
    room.store._rows(f"PRAGMA max_page_count = {pages + 99}")
    assert ana.post(body(question, [0, 1, 2])).json()["done"] == 1
    assert len(room.store.answers()) == 1


def body(question, rank, **fields):
    return {"question": question["id"], "id": f"answer-{question['id']}", "rank": rank} | fields


def test_answers_are_numbered_as_they_were_shown(room):
    ana, ben = Person(room, "ana"), Person(room, "ben")
    state = ana.get("/api/next").json()
    shown = [c["text"] for c in state["question"]["candidates"]]
    number = state["question"]["id"]
    texts = [c.text for c in room.store.question(number).candidates]
    assert sorted(shown) == sorted(texts)
    assert [c["cut"] for c in state["question"]["candidates"]] == ["third" in t for t in shown]
    sent = body(state["question"], [1, 0, 2], unsafe=[2], comment="c", ideal="i", seconds=2.0)
    after = ana.post(sent).json()
    assert (after["done"], after["left"], after["previous"]) == (1, 2, number)
    (recorded,) = room.store.answers()
    said = recorded.answer
    assert [texts[i] for i in said.order] == shown
    assert [said.rank[texts.index(text)] for text in shown] == [1, 0, 2]
    assert [texts[i] for i in said.unsafe] == [shown[2]]
    again = ana.get(f"/api/question/{number}").json()["question"]["answer"]
    assert again == {"id": sent["id"], "rank": [1, 0, 2], "unsafe": [2], "comment": "c",
                     "ideal": "i"}  # fmt: skip
    orders = {
        tuple(server.shown_order(name, question))
        for question in room.store.questions()
        for name in ("ana", "ben")
    }
    assert len(orders) > 1 and ben.get("/api/next").json()["question"]["answer"] is None


def test_sources_stay_hidden(room):
    ana = Person(room, "ana")
    assert "secret" not in ana.get("/api/next").text
    assert "secret" not in ana.post(body({"id": 1}, None)).text
    assert ana.get("/api/overview").status_code == 401
    assert ana.get("/export/jsonl").status_code == 401


def test_an_answer_is_in_the_database_when_the_page_hears_of_it(room):
    ana = Person(room, "ana")
    question = ana.get("/api/next").json()["question"]
    for _ in range(2):  # the first reply was lost
        assert ana.post(body(question, [0, 1, 2])).status_code == 200
    with Store(room.store.path) as other:
        assert len(other.answers()) == 1
    second = Person(room, "ana", tab="other")
    conflict = second.post(body(question, [2, 1, 0], id="another-id"))
    assert conflict.status_code == 409 and "another tab" in conflict.json()["error"]
    replaced = body(question, [2, 1, 0], id="another-id", replaces=f"answer-{question['id']}")
    assert second.post(replaced).status_code == 200
    assert len(room.store.answers()) == 1


def test_a_name_that_is_open_twice_is_said(room):
    app = server.build(room)
    client = TestClient(app, base_url="http://127.0.0.1")
    headers = {"authorization": f"Bearer {room.store.token('ana')}"}

    def elsewhere(tab):
        return client.get("/api/next", headers=headers | {"x-tab": tab}).json()["elsewhere"]

    assert not elsewhere("a") and not elsewhere("a") and elsewhere("b") and elsewhere("a")
    client.post("/api/leave", headers=headers | {"x-tab": "b"})
    assert not elsewhere("a")


def test_the_overview_and_the_files(room, monkeypatch):
    monkeypatch.setattr(server, "EXPORT_DELAY", 0.01)
    owner = Person(room, server.OWNER)
    with Person(room, "ana").client as client:
        headers = {"authorization": f"Bearer {room.store.token('ana')}"}
        path = room.export().paths[0]
        for number in (1, 2):
            client.post("/api/answer", json=body({"id": number}, [0, 1, 1]), headers=headers)
        until = time.monotonic() + 20  # it exports by itself
        while len(path.read_text().splitlines()) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(path.read_text().splitlines()) == 2
    room.store.record("ben", 1, Answer(rank=[0, 1, 1]))
    state = owner.get("/api/overview").json()
    assert (state["questions"], state["answered"]) == (3, 1)
    assert [(a["name"], a["answers"]) for a in state["annotators"]] == [("ana", 2), ("ben", 1)]
    assert "alpha" in " ".join(state["agreement"]) and set(state["links"]) >= {"ana", "ben"}
    key = room.store.token(server.OWNER)
    download = owner.client.get(f"/export/jsonl?key={key}")
    assert len(download.text.splitlines()) == 2
    assert 'filename="prefs.jsonl"' in download.headers["content-disposition"]
    assert owner.client.get(f"/export/answers.jsonl?key={key}").status_code == 200
    assert owner.client.get(f"/export/ideal.jsonl?key={key}").status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"rank": [0, 1]}, 400),
        ({"rank": [0, 1, 9]}, 400),
        ({"unsafe": [3]}, 400),
        ({"question": 99}, 400),
        ({"id": "short"}, 400),
        ({"extra": 1}, 400),
        ({"comment": "x" * 300_000}, 400),
        ({"comment": "x" * loopback.MAX_BODY}, 413),
    ],
)
def test_a_bad_answer_is_refused_with_a_reason(room, change, status):
    response = Person(room, "ana").post(body({"id": 1}, [0, 1, 2]) | change)
    assert response.status_code == status and response.json()["error"]
    assert room.store.answers() == []


def test_strangers_are_refused(room):
    ana = Person(room, "ana")
    ana.headers["authorization"] = "Bearer guess"
    assert ana.get("/api/next").status_code == 401
    assert ana.post(body({"id": 1}, None)).status_code == 401
    ana = Person(room, "ana")
    form = ana.client.post(
        "/api/answer", content=json.dumps(body({"id": 1}, None)),
        headers=ana.headers | {"content-type": "text/plain"},
    )  # fmt: skip
    assert form.status_code == 415
    assert ana.client.get("/", headers={"host": "evil.example"}).status_code == 400
    for path in server.PAGE:
        page = ana.client.get(path)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "innerHTML" not in page.text and "https://" not in page.text
    room.hosts = ["rank.example.org"]
    tunnel = TestClient(server.build(room), base_url="https://rank.example.org")
    assert tunnel.get("/").status_code == 200
