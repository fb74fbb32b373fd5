"""The page in a browser: typing, streams, stopping, two models, a phone's width, accessibility.

It needs Chromium at CHROMIUM (default /usr/bin/chromium) and the package playwright; accessibility
also axe-core's `axe.min.js`, whose path is in AXE_CORE.
"""

import os
import threading
from pathlib import Path

import pytest
import uvicorn

import loopback
from tests.train.chat.fake_chat import FakeModel, FakeScorer
from train.chat import web
from train.chat.session import Session

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
AXE = os.environ.get("AXE_CORE", "")
WIDE = "wide" * 60
TEXT = f"# Title\n\n`x` [y](https://a.example) <img src=x onerror=alert(1)>\n\n|a|\n|-|\n|{WIDE}|"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def serve():
    """serve(*models): the URL of a server of these models."""
    servers = []

    def serve(*models):
        listening = loopback.listen(0)
        app = web.build(Session(models, FakeScorer(), 0.5))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        servers.append((server, thread))
        return f"http://{loopback.HOST}:{listening.getsockname()[1]}"

    yield serve
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def open_page(browser):
    """open_page(url, width=1280, scheme="light"): a page, on which nothing may go wrong."""
    wrong, pages = [], []

    def open_page(url, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(url)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def ask(page, question):
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def test_typing_streaming_and_stopping(serve, open_page):
    model = FakeModel("runs/ppo", "long " * 400, limit=1000, delay=0.02)
    page = open_page(serve(model))
    box = page.get_by_label("Question")
    box.type("first")
    page.keyboard.press("Shift+Enter")
    box.type("second")
    page.keyboard.press("Enter")
    text = page.locator(".text").last
    page.get_by_text("long long").wait_for()
    early = len(text.inner_text())
    page.wait_for_timeout(1000)
    assert early < len(text.inner_text())
    assert page.locator(".answer").get_attribute("aria-busy") == "true"
    page.keyboard.press("Escape")
    page.get_by_text("… stopped").wait_for()
    page.wait_for_timeout(1000)  # until the server notices
    words = model.words
    page.wait_for_timeout(500)
    assert model.words == words < 400
    assert model.messages[0]["content"] == "first\nsecond"
    written = text.inner_text()
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("long long").last.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("… stopped").last.wait_for()
    assert page.locator(".turn").count() == 1
    ask(page, "again")
    page.locator(".turn").nth(1).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Send").wait_for()
    assert [m["role"] for m in model.messages] == ["user", "assistant", "user"]
    assert written.startswith("long")


@pytest.mark.parametrize("width", [390, 1280])
def test_two_models_side_by_side_or_stacked(serve, open_page, width):
    models = FakeModel("runs/ppo", TEXT, room=1), FakeModel("runs/sft", "no " * 300, limit=20)
    page = open_page(serve(*models), width)
    ask(page, "q")
    page.get_by_text("cut at 20 tokens").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()
    left, right = (page.locator(".answer").nth(i).bounding_box() for i in range(2))
    assert (left["y"] == right["y"]) == (width == 1280)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".mark", has_text="reward").count() == 2
    assert page.locator(".text h3").inner_text() == "Title" and page.locator("img").count() == 0
    page.get_by_text("Settings").click()
    page.get_by_label("System message").fill("be brief")
    page.get_by_label("Temperature").fill("0")
    ask(page, "r")
    page.get_by_text("(the oldest turn no longer fits the context)").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()
    assert models[0].messages[0] == {"role": "system", "content": "be brief"}
    page.get_by_label("Temperature").fill("-1")
    ask(page, "s")
    page.get_by_text("The temperature is a number").wait_for()
    assert page.get_by_label("Question").input_value() == "s"
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0


def test_a_refused_question_comes_back(serve, open_page):
    page = open_page(serve(FakeModel("runs/ppo", "yes")))
    ask(page, "q")
    page.get_by_role("button", name="Regenerate").wait_for()
    page.route("**/api/answer", lambda route: route.fulfill(status=200, body=""))
    ask(page, "lost?")
    page.get_by_text("the answer is incomplete").wait_for()
    assert page.get_by_label("Question").input_value() == "lost?"
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("yes 0").wait_for()
    assert page.locator(".turn").count() == 1


def test_a_second_tab_waits(serve, open_page):
    url = serve(FakeModel("runs/ppo", "long " * 400, limit=1000, delay=0.02))
    first, second = open_page(url), open_page(url)
    ask(first, "q")
    first.get_by_text("long long").wait_for()
    ask(second, "r")
    second.get_by_text("Waiting").wait_for()
    first.close()
    second.get_by_text("long long").wait_for()


@pytest.mark.skipif(not AXE, reason="AXE_CORE does not name axe-core's axe.min.js")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(serve, browser, width, scheme):
    url = serve(FakeModel("runs/ppo", TEXT), FakeModel("runs/sft", "no"))
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(url)
    ask(page, "q")
    page.get_by_role("button", name="Regenerate").wait_for()
    page.get_by_text("Settings").click()
    page.add_script_tag(path=AXE)
    faults = page.evaluate("axe.run()")["violations"]
    context.close()
    assert [f"{f['id']} ({f['impact']}): {f['nodes'][0]['html']}" for f in faults] == []
