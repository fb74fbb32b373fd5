"""docs/extending.md, done: its files and changes in a copy of the repository, then its checks."""

import json
import os
import re
import shutil
import subprocess
import sys

import documentation
import pytest
from documentation import ROOT

from train.runtime.records import read_metrics

PAGE = ROOT / "docs/extending.md"
SECTIONS = {
    part.partition("\n")[0]: part
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
}

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


def test_a_change_takes_under_sixty_lines():
    assert len(SECTIONS) == 12
    assert {title: n for title, text in SECTIONS.items() if (n := text.count("\n")) >= 60} == {}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository in which the page's changes were made."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("model", "train", "data", "configs", "tpu", "docs", "tests/helpers"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "Makefile"]:
        shutil.copy(path, root)
    documentation.apply_page(PAGE, root)
    return root


def run(copy, *arguments) -> str:
    """The output of a Python in the copy."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_checks_hold_and_the_commands_can_be_typed(copy):
    assert run(copy, "-c", RUN).count("checked") == 8


@pytest.mark.slow
def test_what_was_added_trains(copy):
    """The weight, the optimizer, the metric, the evaluation and the plugin; then the objective."""
    (copy / "text.txt").write_text("A short line of text.\nAnd another one.\n" * 40)
    pair = {"prompt": "Why?", "chosen": "A good reason.", "rejected": "A bad one."}
    pairs = [json.dumps(pair | {"prompt": f"Why {n}?"}) for n in range(40)]
    (copy / "pairs.jsonl").write_text("\n".join(pairs))
    small = ("--config.steps=2", "--config.data.batch_size=8", "--config.log_every=1")
    run(
        copy, "-m", "train", "--config=configs/pretrain.py:smoke", "--workdir=runs/first", *small,
        "--config.data.source=text.txt", "--config.tokenizer.kind=byte",
        "--config.optimizer.name=lion", "--config.plugins=mymodule",
        "--config.optimizer.schedule=staircase", "--config.optimizer.stairs=2",
        "--config.evals.again.type=accuracy", "--config.evals.again.source=text.txt",
    )  # fmt: skip
    records = read_metrics(copy / "runs/first", "train")
    assert records and all(0 <= record["padding"] < 1 for record in records)
    records = read_metrics(copy / "runs/first", "eval")
    assert records and all(0 <= record["again/accuracy"] <= 1 for record in records)
    run(
        copy, "-m", "train", "--config=configs/slic.py:smoke", "--workdir=runs/slic", *small,
        "--config.init_from.policy=runs/first", "--config.data.source=pairs.jsonl",
        "--config.data.subset=", "--config.slic.margin=2",
    )  # fmt: skip
    losses = [record["loss"] for record in read_metrics(copy / "runs/slic", "train")]
    assert len(losses) == 2 and min(losses) >= 0
