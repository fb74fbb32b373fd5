"""The docstring of every recipe says how to run it, on what, how long, and what to expect."""

import re

import documentation
import pytest
from documentation import ROOT

RECIPES = [
    path
    for path in sorted((ROOT / "configs").rglob("*.py"))
    if path.name not in ("__init__.py", "base.py")
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_command_hardware_time_and_expectation(path):
    name = str(path.relative_to(ROOT))
    commands = documentation.documented_commands(path)
    assert any(f"--config={name}" in word for words in commands for word in words)
    text = documentation.docstring(path)
    for part in ("Hardware", "Time", "Expect"):
        assert re.search(rf"^{part}: \S", text, re.MULTILINE), f"{name} has no line {part}:"
