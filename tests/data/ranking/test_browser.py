"""The pages in a real browser: people with keyboards, a closed tab, a server that is killed, a
phone's width, accessibility.

It needs Chromium at CHROMIUM (default /usr/bin/chromium) and the package playwright; accessibility
also axe-core's `axe.min.js`, whose path is in AXE_CORE.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import uvicorn
from quick_compile import FLAGS

import loopback
from data.ranking import server
from data.ranking.questions import Candidate, Question
from data.ranking.store import Store

ROOT = Path(__file__).parents[3]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
AXE = os.environ.get("AXE_CORE", "")
PAIRS = 40
HTML = "<img src=x onerror=alert(1)> <b>bold</b> " + "wide" * 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def until_done(page, count):
    """Waits until the page shows that so many questions are answered."""
    page.locator("#count", has_text=re.compile(rf"^{count} of")).wait_for()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Command:
    """`python -m data.ranking` as a process that is killed and started again."""

    def __init__(self, folder, *flags):
        with socket.socket() as free:
            free.bind((loopback.HOST, 0))
            port = free.getsockname()[1]
        self.words = [sys.executable, "-m", "data.ranking", f"--out={folder}/prefs.jsonl",
                      f"--port={port}", *flags]  # fmt: skip
        self.links: dict[str, str] = {}
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        for line in self.process.stdout:
            if match := re.fullmatch(r"(\S+)  (http://\S+)\n", line):
                self.links[match[1]] = match[2]
            if line.startswith("Answers are kept"):
                return
        raise AssertionError("the server did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.start()

    def end(self):
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, printed
        return printed


class Person:
    """An annotator with a keyboard, who prefers the polite answer.

    Attributes:
      acknowledged: {id of an answer: its question} that the page heard to be saved.
    """

    def __init__(self, browser, link):
        self.context, self.link, self.acknowledged = browser.new_context(), link, {}
        self.open()

    def open(self):
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("response", self.note)
        self.page.goto(self.link)
        self.page.locator(".answer").first.wait_for()

    def note(self, response):
        if response.url.endswith("/api/answer") and response.status == 200:
            sent = json.loads(response.request.post_data)
            assert sent["id"] not in self.acknowledged
            self.acknowledged[sent["id"]] = sent["question"]

    def done(self):
        return int(self.page.locator("#count").inner_text().split()[0])

    def choose(self):
        texts = self.page.locator(".answer .text").all_inner_texts()
        polite = next(i for i, text in enumerate(texts) if "gladly" in text)
        self.page.keyboard.press(str(polite + 1))

    def answer(self, count, key=None):
        for _ in range(count):
            done = self.done()
            self.page.keyboard.press(key) if key else self.choose()
            self.page.keyboard.press("Enter")
            until_done(self.page, done + 1)


def test_two_people_rank_while_the_server_is_killed_and_a_reward_model_learns_it(
    browser, tmp_path, request
):
    prompts = tmp_path / "prompts.jsonl"
    topics = ["beans", "peas", "tulips", "garlic", "mint", "kale", "leeks", "roses"]
    prompts.write_text("".join(
        json.dumps({"prompt": f"Do you sell {topics[i % 8]}, order {i}?", "responses": [
            f"Yes, gladly: {topics[i % 8]} are here.", f"No idea about {topics[i % 8]}, look."]})
        + "\n" for i in range(PAIRS)
    ))  # fmt: skip
    command = Command(tmp_path, f"--prompts={prompts}", "--annotators=ana,ben", "--each=2")
    request.addfinalizer(lambda: command.process.kill())
    ana, ben = (Person(browser, command.links[name]) for name in ("ana", "ben"))
    ana.answer(10)
    ben.answer(12)
    ana.choose()
    ana.page.keyboard.press("Enter")
    command.kill()  # whether the answer arrived or not
    until_done(ana.page, 11)
    ana.answer(9)
    ana.choose()
    ana.page.close()  # half-way, an answer chosen and not sent
    ben.answer(8)
    command.process.kill()
    ben.choose()
    ben.page.keyboard.press("Enter")
    ben.page.get_by_text("Trying again").wait_for()
    assert len(ben.acknowledged) == 20
    command.process.wait()
    command.start()
    until_done(ben.page, 21)
    ana.open()
    assert ana.done() == 20
    assert ana.page.locator(".answer.best").count() == 1  # what was chosen before
    ana.page.keyboard.press("Enter")
    until_done(ana.page, 21)
    ana.answer(19)
    ben.answer(4, "t")
    ben.answer(15)
    for person in (ana, ben):
        person.page.get_by_text("nothing left to compare").wait_for()
    assert f"{2 * PAIRS} answers: {PAIRS} preferences" in command.end()

    records = read_lines(tmp_path / "prefs.jsonl")
    said = Counter((a["annotator"], r["question"]) for r in records for a in r["annotations"])
    acknowledged = [
        (name, question)
        for name, person in (("ana", ana), ("ben", ben))
        for question in person.acknowledged.values()
    ]
    assert said == Counter(acknowledged) and set(said.values()) == {1}
    assert len(said) == 2 * PAIRS
    assert all("gladly" in record["responses"][0] for record in records)
    assert Counter(record["confidence"] for record in records) == {1.0: PAIRS - 4, 0.75: 4}
    assert reward_accuracy(tmp_path) > 0.9


def reward_accuracy(folder):
    """The accuracy on all pairs of a reward model that is trained on them."""
    data = f"{folder}/prefs.jsonl"
    subprocess.run(
        [sys.executable, "-m", "train", "--config=configs/reward.py:smoke",
         f"--workdir={folder}/reward", f"--config.data.source={data}",
         f"--config.data.heldout_source={data}", "--config.model.size=tiny",
         "--config.tokenizer.vocab_size=320", "--config.data.length=128"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS}, check=True,
        timeout=1200,
    )  # fmt: skip
    lines = read_lines(folder / "reward" / "metrics.jsonl")
    return [r["accuracy/overall"] for r in lines if "accuracy/overall" in r][-1]


@pytest.fixture
def links(tmp_path):
    """{name: link} of a server in this process, with questions of 2 to 4 answers."""
    with Store(tmp_path / "prefs.db") as store, contextlib.ExitStack() as stack:
        store.add([
            Question(
                [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": f"Question {i}: {HTML}"}],
                [Candidate(f"{'long ' * 80 * (j == 1)}answer {j} {HTML}", {"run": f"runs/{j}"})
                 for j in range(2 + i % 3)],
            )
            for i in range(6)
        ])  # fmt: skip
        room = server.Room(store, ["ana", "ben"], lambda: None, each=2)
        listening = loopback.listen(0)
        app = server.build(room)
        serving = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        stack.callback(thread.join)
        stack.callback(lambda: setattr(serving, "should_exit", True))
        address = f"http://{loopback.HOST}:{listening.getsockname()[1]}"
        yield server.links(room, address) | {"store": store}


@pytest.fixture
def open_page(browser):
    """open_page(url, width=1280, scheme="light"): a page, on which nothing may go wrong."""
    wrong, pages = [], []

    def open_page(url, width=1280, scheme="light", **options):
        size = {"width": width, "height": 844}
        page = browser.new_page(viewport=size, color_scheme=scheme, **options)
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(url)
        page.locator(".answer, #annotators td").first.wait_for()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [text for text in wrong if "409" not in text] == []


def test_keys(links, open_page):
    page, store = open_page(links["ana"]), links["store"]
    while page.locator(".answer").count() != 4:
        page.keyboard.press("s")
        until_done(page, len(store.answers()))
    done = len(store.answers())
    page.keyboard.press("Enter")
    assert "Rank an answer first" in page.locator("#status").inner_text()
    page.keyboard.type("3=1")
    page.keyboard.press("4")
    assert page.locator("#status").inner_text() == "3 = 1 > 4 > the other"
    page.keyboard.type("f2c")
    page.keyboard.type("a comment, s and t")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.keyboard.press("End")
    page.keyboard.type(" better")
    page.reload()
    page.locator(".answer.best").first.wait_for()  # the draft
    assert page.locator("#comment").input_value() == "a comment, s and t"
    page.locator("#ideal").focus()
    page.keyboard.press("Control+Enter")
    until_done(page, done + 1)
    recorded = store.answers()[-1]
    said, question = recorded.answer, store.question(recorded.question)
    shown = [said.rank[i] for i in said.order]
    assert shown == [0, 2, 0, 1] and said.unsafe == [said.order[1]]
    assert said.ideal.endswith(" better") and said.comment and said.seconds > 0
    assert said.ideal.startswith(question.candidates[said.order[2]].text.split()[0])
    page.keyboard.press("u")
    page.get_by_text("Your answer").wait_for()
    assert page.locator(".place").all_inner_texts() == ["1st =", "3rd", "1st =", "2nd"]
    page.keyboard.press("n")
    page.locator("#onward").wait_for(state="hidden")
    page.keyboard.press("u")
    page.get_by_text("Your answer").wait_for()
    page.keyboard.press("Backspace")
    page.keyboard.type("t")
    page.keyboard.press("Enter")
    page.locator("#onward").wait_for(state="hidden")
    assert store.current("ana", question.id).answer.tied and len(store.answers()) == done + 1


def test_a_long_prompt_shows_its_question_beside_the_answers(links, open_page):
    documents = "a document\n" * 99 + "Why?"
    message = json.dumps([{"role": "user", "content": documents}])
    links["store"]._rows("UPDATE questions SET messages = ?", (message,))
    page = open_page(links["ana"], 390)
    shown = page.locator(".message")
    assert shown.evaluate("e => e.scrollTop + e.clientHeight >= e.scrollHeight - 1")
    assert shown.get_attribute("tabindex") == "0"
    assert page.locator(".answer h2").first.bounding_box()["y"] < 700


def test_two_tabs_and_a_touch_screen(links, open_page):
    store = links["store"]
    first = open_page(links["ana"], 390)
    second = open_page(links["ana"], 390)
    second.get_by_text("is open on another page too").wait_for()
    for page in (first, second):
        page.locator(".pick").nth(1).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    first.get_by_role("button", name="Send").click()
    until_done(first, 1)
    second.locator(".pick").nth(0).click()
    second.get_by_role("button", name="Send").click()
    second.get_by_text("answered in another tab").wait_for()
    assert len(store.answers()) == 1
    assert second.locator(".answer").nth(1).locator(".place").inner_text().startswith("1st")
    second.get_by_role("button", name="Undo").wait_for()


@pytest.mark.skipif(not AXE, reason="AXE_CORE does not name axe-core's axe.min.js")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(links, open_page, width, scheme):
    for name in ("ana", server.OWNER):
        page = open_page(links[name], width, scheme, bypass_csp=True)
        if name == "ana":
            page.keyboard.type("1f2c")
            page.get_by_text("Help").click()
        page.add_script_tag(path=AXE)
        faults = page.evaluate("axe.run()")["violations"]
        serious = [f for f in faults if f["impact"] in ("serious", "critical")]
        assert [f"{f['id']}: {f['nodes'][0]['html']}" for f in serious] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if shots := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{shots}/{name.strip('/')}_{width}_{scheme}.png")
