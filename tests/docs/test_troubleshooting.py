"""Every command of docs/troubleshooting.md, typed in a folder like a clone, is answered so."""

import json
import re

import documentation
import pytest
from documentation import ROOT, type_command

from model.config import TransformerConfig
from model.sizes import SIZES
from train.checkpoints.saved_models import save_models
from train.cli import errors

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
NEEDS_A_RUN = "## A run that exists"  # a section whose commands are slow
WIDTHS = (60, 80, 120)


def sessions(page):
    """[(command, answer)] of a page; `…` in an answer stands for any text."""
    found = []
    for block in documentation.blocks(page):
        for session in re.split(r"^\$ ", block.text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
            command, _, answer = session.partition("\n")
            found.append((" ".join(command.split()), " ".join(answer.split())))
    return found


QUICK, SLOW = (sessions(part) for part in PAGE.split(NEEDS_A_RUN))


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with recipes, the files that the page names, and a reward model's workdir."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    numbers = range(40)
    chats = [
        [{"role": "user", "content": f"{n} and 1?"}, {"role": "assistant", "content": f"{n + 1}."}]
        for n in numbers
    ]
    write_lines(folder / "chats.jsonl", [{"messages": messages} for messages in chats])
    write_lines(
        folder / "questions.jsonl", [{"question": f"{n} and 1?", "reply": f"{n}"} for n in numbers]
    )
    (folder / "text.txt").write_text(
        "".join(f"The sum of {n} and 1 is {n + 1}.\n" * 9 for n in numbers)
    )
    (folder / "empty.jsonl").write_text("")
    scores = folder / "runs/scores"
    scores.mkdir(parents=True)
    save_models(scores, {"reward": TransformerConfig(vocab_size=8, **SIZES["tiny"])})
    return folder


@pytest.fixture(scope="module")
def run(clone):
    """A run in the clone, trained for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        assert type_command(SLOW[0][0]).code == 0


def check(command, answer):
    """The output of a command, which is an error that the page shows."""
    typed = type_command(command)
    pattern = ".*".join(map(re.escape, answer.split("…")))
    text = re.sub(r"[^\s`]*python\S* -m ", "python -m ", " ".join(typed.text.split()))
    assert re.search(f"{pattern}$", text), text
    assert typed.code == 1
    assert "Traceback" not in text
    return text


def test_there_are_thirty_mistakes():
    assert len(QUICK) + len(SLOW) >= 30
    assert len({command for command, _ in QUICK}) == len(QUICK)


@pytest.mark.parametrize("command, answer", QUICK, ids=[command[:70] for command, _ in QUICK])
def test_a_mistake_is_answered(command, answer, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    message = check(command, answer).rpartition("error: ")[2]  # phases of a run come before it
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            errors.fail(message)
        lines = capsys.readouterr().err.splitlines()
        assert " ".join(lines) == f"error: {message}"  # no word is broken
        assert all(len(line) <= width or " " not in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("command, answer", SLOW[1:], ids=[command[:70] for command, _ in SLOW[1:]])
def test_a_mistake_with_a_run_is_answered(command, answer, clone, run, monkeypatch):
    monkeypatch.chdir(clone)
    before = {p: p.stat().st_mtime for p in (clone / "runs/first/checkpoints").rglob("*")}
    check(command, answer)
    assert before == {p: p.stat().st_mtime for p in (clone / "runs/first/checkpoints").rglob("*")}
