"""A headless Chromium for tests of pages, and axe-core, which finds faults of accessibility.

Tests that use them skip, with the reason, where one is absent. Chromium is `chromium` or
`google-chrome` on the PATH, driven by the package `playwright` (pip install playwright). axe-core
is the file axe.min.js that the variable AXE_CORE names, or comes from npm (npm pack axe-core).
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tarfile
import tempfile
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


@functools.cache
def axe_core() -> str:
    """The source of axe-core."""
    if path := os.environ.get("AXE_CORE"):
        return Path(path).read_text()
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "axe-core", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no axe-core: set AXE_CORE=…/axe.min.js, or install npm ({error})")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            return archive.extractfile("package/axe.min.js").read().decode()


def serious_faults(page: Any) -> list[str]:
    """axe-core's serious and critical faults of a page as it is shown now."""
    page.evaluate(axe_core())
    return [
        f"{fault['id']} ({fault['impact']}): {node['html']:.200}"
        for fault in page.evaluate("axe.run()")["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
