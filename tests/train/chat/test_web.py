"""The server of the page: answers as streams, and what it refuses."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest
from starlette.testclient import TestClient

import loopback
from tests.train.chat.fake_chat import FakeModel, FakeScorer
from train.chat import web
from train.chat.session import Session

QUESTION = {"role": "user", "content": "q"}
BODY = {"model": 0, "messages": [QUESTION], "temperature": 0.0, "draw": 0}
JSON = {"content-type": "application/json"}


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(web, "INTERVAL", 0.0)
    models = [FakeModel("runs/a", "**bold** <b>x</b> end", limit=3, room=1), FakeModel("b", "no")]
    return Session(models, FakeScorer(), temperature=0.5, system="s")


@pytest.fixture
def client(session):
    return TestClient(web.build(session, "a notice"), base_url="http://127.0.0.1:8000")


def events(response):
    assert response.status_code == 200
    return [json.loads(line) for line in response.text.splitlines()]


def test_an_answer_is_a_stream_of_its_forms(client):
    first, second, last = events(client.post("/api/answer", json=BODY))
    assert first == {"text": "**bold**", "html": "<p><strong>bold</strong></p>\n"}
    assert second["text"] == "**bold** <b>x</b>" and "&lt;b&gt;x&lt;/b&gt;" in second["html"]
    assert last["end"] == "limit"
    assert last["marks"] == ["… cut at 3 tokens; --max_new_tokens", "reward 21.000"]
    (only,) = events(client.post("/api/answer", json=BODY | {"model": 1}))
    assert only["text"] == "no" and only["marks"] == ["reward 2.250"]


def test_the_conversation_is_that_of_the_page(client, session):
    messages = [{"role": "system", "content": "s"}, QUESTION]
    messages += [{"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    note, *_, last = events(
        client.post("/api/answer", json=BODY | {"messages": messages, "temperature": 1, "draw": 7})
    )
    assert note == {"note": "(the oldest turn no longer fits the context)"}
    assert session.models[0].messages == messages
    warm = BODY | {"model": 1, "temperature": 1, "draw": 7}
    assert events(client.post("/api/answer", json=warm))[-1]["text"] == "no 7"


def test_the_page_and_its_settings(client):
    about = client.get("/api/about").json()
    assert about == {
        "models": ["runs/a", "b"], "scorer": "runs/reward", "temperature": 0.5, "system": "s",
        "notice": "a notice",
    }  # fmt: skip
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        response = client.get(path)
        assert response.status_code == 200 and kind in response.headers["content-type"]
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert "http://" not in response.text and "https://" not in response.text
    assert client.get("/../setup.py").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0:8000", ""])
def test_another_host_is_refused(client, host):
    for request in (client.get("/", headers={"host": host}),
                    client.post("/api/answer", json=BODY, headers={"host": host})):  # fmt: skip
        assert request.status_code == 400
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (json.dumps(BODY | {"model": 2}).encode(), 400),
        (json.dumps(BODY | {"messages": []}).encode(), 400),
        (json.dumps(BODY | {"messages": [{"role": "tool", "content": "x"}]}).encode(), 400),
        (json.dumps(BODY | {"messages": [{**QUESTION, "role": "assistant"}]}).encode(), 400),
        (json.dumps(BODY | {"temperature": -1}).encode(), 400),
        (json.dumps(BODY | {"draw": 2**40}).encode(), 400),
        (json.dumps(BODY | {"extra": 1}).encode(), 400),
        (json.dumps(BODY | {"messages": [{**QUESTION, "content": "x" * 3000}]}).encode(), 400),
        (b" " * (loopback.MAX_BODY + 1), 413),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(client, session, body, status):
    response = client.post("/api/answer", content=body, headers=JSON)
    assert response.status_code == status and response.json()["error"]
    assert session.models[0].words == 0


def test_a_form_of_a_foreign_page_is_refused(client, session):
    """Its body is no JSON; for JSON a browser asks first, and no permission is given."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post(
            "/api/answer", content=json.dumps(BODY), headers={"content-type": kind}
        )
        assert response.status_code == 415
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = client.options("/api/answer", headers=asked)
    assert response.status_code == 405
    assert not any(name.startswith("access-control") for name in response.headers)
    assert session.models[0].words == 0


class Call:
    """A request whose connection a test closes."""

    def __init__(self, app):
        self.lines, self.closed, self._body = [], asyncio.Event(), [json.dumps(BODY).encode()]
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
            "path": "/api/answer", "raw_path": b"/api/answer", "query_string": b"",
            "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "",
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message.get("body"):
            self.lines.append(json.loads(message["body"]))

    async def until(self, count):
        while len(self.lines) < count:
            await asyncio.sleep(0.001)


def test_a_closed_connection_stops_the_sampling_and_the_next_waits_for_its_turn(monkeypatch):
    monkeypatch.setattr(web, "INTERVAL", 0.0)
    model = FakeModel("a", "long " * 5000, limit=9000, delay=0.005)

    async def run():
        app = web.build(Session([model]))
        first = Call(app)
        await first.until(2)
        second = Call(app)
        await second.until(1)
        assert second.lines == [{"waiting": True}]
        third = Call(app)
        await third.until(1)
        third.closed.set()  # it gives up while it waits
        await third.task
        first.closed.set()
        await first.task
        await second.until(2)
        assert len(third.lines) == 1 and len(first.lines) < 2000
        second.closed.set()
        await second.task
        words = model.words
        await asyncio.sleep(0.05)
        assert model.words == words < 4000

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_port_in_use_is_said():
    with socket.socket() as other:
        other.bind((loopback.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use; give another: --port="):
            loopback.listen(port)


def test_missing_packages_are_named():
    """And the rest of the chat does not need them."""
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "import train.chat.terminal\n"
        "try: import train.chat.web\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a web page needs uvicorn; type: pip install '.[web]'\n"
