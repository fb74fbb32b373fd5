"""sweep.html in a browser: on phone and desk, light and dark, without requests."""

import itertools
import shutil

import pytest
from sample_runs import sweep_runs
from sample_runs.sweep_runs import LOSS, result

from train.sweep import comparison
from train.sweep.report import page


@pytest.fixture
def page_file(tmp_path):
    """The page of a sweep with more trials than colours, a long name and a failure."""
    rows = [
        result({0: 3.0 + 0.1 * i, 1: 3.05 + 0.1 * i}, name="muon" * 3, peak_lr=10.0 ** -(i % 5 + 1))
        for i in range(9)
    ]
    rows.append(result({0: 2.0, 1: None}, name="adamw", peak_lr=0.1))
    compared, verdict = comparison.compare(rows), comparison.verdict(rows, LOSS)
    base = sweep_runs.default()
    text = page.page("<b>sweep</b>", compared, LOSS, verdict, sweep_runs.build(base))
    path = tmp_path / "sweep.html"
    path.write_text(text)
    return path


def test_the_page_has_every_trial_escaped(page_file):
    text = page_file.read_text()
    assert "&lt;b&gt;sweep" in text and "2 more" in text
    assert text.count("<polygon") == 10 and "seed 1: diverged: not finite" in text


@pytest.mark.slow
def test_the_page_fits_phone_and_desk_and_asks_for_nothing(page_file):
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if not program:
        pytest.skip("no Chromium on the PATH")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            size = {"width": width, "height": 844}
            shown, requests = chromium.new_page(viewport=size, color_scheme=scheme), []
            shown.on("request", lambda request, requests=requests: requests.append(request.url))
            shown.goto(page_file.as_uri())
            assert requests == [page_file.as_uri()]
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            assert shown.locator("figure").count() == 2
            shown.close()
        chromium.close()
