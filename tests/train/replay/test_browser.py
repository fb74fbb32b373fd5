"""The page of a replay in a headless Chromium (tests/train/report/test_browser.py says how)."""

import itertools

import pytest
from etils import epath
from sample_runs.replays import REFUSAL, content, make

from tests.train.report.test_browser import WIDTH, browser, serious_faults
from train.replay import gates
from train.replay.report import files

HOSTILE = "<img src=x onerror=document.title='broken'> & \u202e"


@pytest.fixture
def page_file(tmp_path):
    """A page of sixty answers, one of which is a refusal, with a failed gate."""
    replay = make(60, wins=30, refused={33}, texts={5: HOSTILE * 40, 6: "wide" * 200})
    condition = gates.Condition("refusals.harmless", "", "<=", 0.0)
    whole = content(replay, gates.Gates([condition]))
    files.write(epath.Path(tmp_path) / "out.html", whole)
    return (tmp_path / "out.html").as_uri()


@pytest.mark.slow
def test_the_page_on_phone_and_desk_light_and_dark(page_file):
    with browser() as chromium:
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            size = {"width": width, "height": 844}
            page = chromium.new_page(viewport=size, color_scheme=scheme)
            requests, faults = [], []
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.on("console", lambda message, faults=faults: faults.append(message.text))
            page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
            page.goto(page_file)
            assert requests == [page_file] and not faults
            refusal = page.get_by_text(REFUSAL).first
            assert refusal.bounding_box()["y"] < 844  # the regression is on the first screen
            assert page.get_by_text("1 of 1 gates failed").bounding_box()["y"] < 844
            assert page.evaluate(WIDTH) == width  # nothing is wider than the screen
            assert not serious_faults(page)
            page.close()


@pytest.mark.slow
def test_answers_are_searched_filtered_and_shown_as_text(page_file):
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 844})
        page.goto(page_file)
        rows, count = page.locator("#answers > li"), page.locator("#count")
        assert rows.count() == 20 and count.inner_text() == "60 of 60 answers"
        page.get_by_role("button", name="Show more").click()
        assert rows.count() == 40
        page.get_by_label("Which").select_option("refusal")
        assert rows.count() == 1 and "number 33" in rows.inner_text().lower()
        page.get_by_label("Which").select_option("all")
        page.get_by_label("Category").select_option("b")
        page.get_by_label("Search").fill("ONERROR src")
        assert count.inner_text() == "1 of 60 answers"
        assert page.get_by_role("button", name="Show more").is_hidden()
        assert "onerror=document.title" in rows.inner_text() and page.title() != "broken"
        page.get_by_label("Search").fill("")
        page.get_by_label("Order").select_option("best")
        assert "lower" not in rows.first.inner_text()
        assert not serious_faults(page)
