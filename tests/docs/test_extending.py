"""docs/extending.md, done: its files and changes in a copy of the repository, then its checks."""

import os
import re
import shutil
import subprocess
import sys

import documentation
from documentation import ROOT

PAGE = ROOT / "docs/extending.md"
SECTIONS = {
    part.partition("\n")[0]: part
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
}
_FILE = re.compile(r"# ([\w/]+\.py)\n")

# Runs in the copy: the checks as they are, the commands by the flags and settings of the copy.
RUN = """
import sys
sys.path.insert(0, "tests/helpers")
import documentation
from pathlib import Path

for block in documentation.blocks(Path("docs/extending.md").read_text()):
    if block.language == "python" and not block.text.startswith("# "):
        exec(compile(block.text, "docs/extending.md", "exec"), {})
for words in documentation.documented_commands(Path("docs/extending.md")):
    documentation.check_command(words)
    print("checked", *words)
"""


def apply(change: str, root) -> None:
    """Applies a diff whose first line names the file and whose hunks are separated by @@."""
    name, _, hunks = change.partition("\n")
    path = root / name.removeprefix("# ")
    text = path.read_text()
    for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{name}: not there once:\n{before}"
        text = text.replace(before, after)
    path.write_text(text)


def test_a_change_takes_under_sixty_lines():
    assert len(SECTIONS) == 12
    assert {title: n for title, text in SECTIONS.items() if (n := text.count("\n")) >= 60} == {}


def test_the_twelve_changes_can_be_made(tmp_path):
    for name in ("model", "train", "data", "configs", "tpu", "docs", "tests/helpers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "Makefile"]:
        shutil.copy(path, tmp_path)
    for block in documentation.blocks(PAGE.read_text()):
        if block.language == "diff":
            apply(block.text, tmp_path)
        elif block.language == "python" and (match := _FILE.match(block.text)):
            (tmp_path / match[1]).write_text(block.text[match.end() :])
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("checked") >= 8
