"""Every command of the documentation is taken by the flags, recipes and settings that there are."""

import shlex

import documentation
import pytest
from documentation import ROOT

from train.config import saved
from train.config.run import default

# Modules that `python -m` runs, and recipes: both show commands in their docstrings.
SOURCES = [
    path
    for folder in ("train", "data", "tpu", "configs", "benchmarks", "tests/fuzz")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# docs/extending.md makes the modules and recipes that it names: test_extending.py. The commands of
# docs/troubleshooting.md are mistakes: test_troubleshooting.py.
OTHERS = ("extending.md", "troubleshooting.md")
PAGES = [path for path in documentation.pages() if path.name not in OTHERS]


def unique_commands():
    """{command: files that show it}."""
    commands = {}
    for path in [*PAGES, ROOT / "Makefile", *SOURCES]:
        for words in documentation.documented_commands(path):
            commands.setdefault(tuple(words), []).append(str(path.relative_to(ROOT)))
    return commands


COMMANDS = unique_commands()


def test_commands_are_found_where_they_stand():
    files = {file for files in COMMANDS.values() for file in files}
    assert {"README.md", "CONTRIBUTING.md", "Makefile", "docs/tpu.md", "configs/sft.py"} <= files
    assert ("make", "demo") in COMMANDS
    assert any(words[2] == "tpu.launch" for words in COMMANDS if words[0] == "python")
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: shlex.join(words)[:80])
def test_a_command_is_one_that_can_be_typed(words, monkeypatch):
    if words[1:3] == ("-m", "train.lm_eval"):
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness, an extra, is not installed")
    if words[1:3] == ("-m", "spacy"):
        pytest.importorskip("spacy", reason="spaCy, of the extra `names`, is not installed")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(saved, "recipe_of", lambda name: default())  # of runs that are not there
    documentation.check_command(list(words))


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "python -m train.brew --config=configs/sft.py",
        "python -m train --config=configs/sft.py",  # without --workdir
        "python -m train --config=configs/tea.py --workdir=runs/tea",
        "python -m train --config=configs/pretrain.py:size=125m --workdir=runs/a --config.stps=3",
        "python -m train --config=configs/pretrain.py --workdir=runs/a --config.seed=-1",
        "python -m tpu.launch local --procs=2 -- --config=configs/sft.py --workdir=runs/a",
        "python -m tpu.launch local -- --config=configs/sft.py --workdir=runs/a --config.stps=3",
    ],
)
def test_a_command_that_cannot_be_typed_is_refused(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(documentation.Refused):
        documentation.check_command(shlex.split(command))
