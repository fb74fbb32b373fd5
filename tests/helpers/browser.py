"""A headless Chromium for tests of pages, and axe-core, which finds faults of accessibility.

Tests that use them skip, with the reason, where one is absent. Chromium is `chromium` or
`google-chrome` on the PATH, driven by the package `playwright`:

    pip install playwright
    npm pack axe-core && tar xf axe-core-*.tgz
    AXE_CORE=package/axe.min.js python -m pytest -m slow tests/train/report/test_browser.py
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


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
        pytest.skip(
            "no axe-core: unpack what `npm pack axe-core` brings, set AXE_CORE to axe.min.js"
        )
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
