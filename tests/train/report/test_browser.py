"""The page of a report in a headless Chromium, and axe-core, which finds faults of accessibility.

The test skips, with the reason, where one is absent. Chromium is `chromium` or `google-chrome` on
the PATH, driven by the package `playwright`:

    pip install playwright
    npm pack axe-core && tar xf axe-core-*.tgz
    AXE_CORE=package/axe.min.js python -m pytest -m slow tests/train/report/test_browser.py
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from train.config import run as config
from train.evals.generative import Text
from train.objectives.reporting import Bars, Finished, Result
from train.report import html

OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"
HEIGHT, WIDTH = (f"document.documentElement.scroll{x}" for x in ("Height", "Width"))


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A context with a Chromium, a playwright.sync_api.Browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        pytest.skip("no Chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def axe_core() -> str:
    """The source of axe-core."""
    if "AXE_CORE" not in os.environ:
        pytest.skip("no axe-core: set AXE_CORE to its axe.min.js (npm pack axe-core)")
    return Path(os.environ["AXE_CORE"]).read_text()


def serious_faults(page: Any) -> list[str]:
    """axe-core's serious and critical faults of a page as it is shown now."""
    page.evaluate(axe_core())
    return [
        f"{fault['id']} ({fault['impact']}): {node['html']:.200}"
        for fault in page.evaluate("axe.run()")["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.fixture
def page_file(tmp_path, monkeypatch):
    """The page of a chain of five stages, with long answers and a long name."""
    monkeypatch.setattr(html, "parameters", lambda workdir: {"policy": 2_000_000})
    made = {"date": "2026-11-30T10:00:00+00:00", "commit": "0" * 40, "command": "x" * 300,
            "processor": "a CPU", "cores": 2, "devices": "1 × cpu", "seedpod": "0.1.0"}  # fmt: skip
    evals = [{"step": 0, "loss": 4.0, "score": -1.0, "kl": 0.0}]
    evals += [{"step": 99, "loss": 2.0, "score": 1.0, "kl": 9.0}]
    train = [{"step": i, "nats_per_token": 4 / i, "loss": 4 / i} for i in range(1, 100)]
    names = ("pretrain", "sft", "reward", "judge", "ppo")
    finished = [
        Finished(name, stage, config.RunConfig(stage=stage), epath.Path(), train, evals, 90.0, made)
        for name, stage in zip(names, ("pretrain", "sft", "reward", "reward", "ppo"), strict=True)
    ]
    long = "a long text " * 60
    results = {
        name: Result("method", "75.0% of pairs right", "60 of 80; word overlap 50.0% (40 of 80)",
                     long, verdict, "not preferred beyond chance")
        for name, verdict in zip(names, ("", "good", "good", "", "caution"), strict=True)
    }  # fmt: skip
    kinds = {f"kind_{i}": 0.1 * i for i in range(7)}
    counts = dict.fromkeys(kinds, 12345.0)
    bars = [Bars("Pairs", "Text.", {"reward": kinds, "word overlap": kinds}, {"reward": counts})]
    answers = {name: Text(long, True) for name in names}
    answered = [html.Answered(f"`x{i}` " * 60, answers, long, 64) for i in range(8)]
    path = tmp_path / "report.html"
    path.write_text(html.page("a_long_name_of_a_chain" * 3, finished, results, bars, answered))
    return path.as_uri()


@pytest.mark.slow
def test_the_report_on_phone_and_desk_light_and_dark_and_on_paper(page_file):
    with browser() as chromium:
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            size = {"width": width, "height": 844}
            page = chromium.new_page(viewport=size, color_scheme=scheme)
            requests = []
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.goto(page_file)
            assert requests == [page_file]
            if width == 390:  # headline and results are two screens, and all of it is short
                assert page.evaluate(HEIGHT) <= 2500
                first = "document.querySelector('.section').getBoundingClientRect().top"
                assert page.evaluate(first) <= 2 * 844
                assert not page.locator(".section[open]").count()
            else:
                assert page.locator(".section[open]").count() == 3
            assert not serious_faults(page)
            page.evaluate(OPEN_ALL)
            assert page.evaluate(WIDTH) == width  # nothing is wider than the screen
            assert not serious_faults(page)
            page.close()

        page = chromium.new_page(viewport={"width": 390, "height": 844})
        page.goto(page_file)
        page.get_by_text("The same questions").click()
        answer = page.locator(".answer").first
        assert answer.locator("details > p").is_hidden()
        answer.get_by_text("show all").click()
        assert answer.locator("details > p").is_visible()
        answer.get_by_text("show less").click()
        assert answer.locator("details > p").is_hidden()

        opened = "window.during = 0; addEventListener('beforeprint', () => "
        page.evaluate(f"{opened}{{window.during = all('details:not([open])').length}})")
        page.pdf()
        assert page.evaluate("window.during") == 0  # all is on paper
        assert page.locator(".section[open]").count() == 1  # and as before afterwards
