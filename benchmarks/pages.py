"""The part of docs/benchmarks.md that a benchmark writes: between two comments with its name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Puts a text between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
      ValueError: the page has no such part.
    """
    pattern = rf"(?<=<!-- {re.escape(name)} -->\n\n).*?(?=\n\n<!-- /{re.escape(name)} -->)"
    changed, count = re.subn(pattern, lambda _: text, page.read_text(), count=1, flags=re.DOTALL)
    if not count:
        raise ValueError(f"{page} has no part <!-- {name} --> … <!-- /{name} -->")
    page.write_text(changed)


def machine() -> str:
    """The date, the commit, the cores that this process may use, their make, and JAX's version."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True, check=False).stdout.strip()  # fmt: skip
    return (
        f"{date.today()}, commit {commit or 'unknown'}, {len(os.sched_getaffinity(0))} cores of "
        f"{model[1] if model else platform.machine()}, JAX {version('jax')}, "
        f"Python {platform.python_version()}"
    )
