"""Conversations on a terminal and through pipes."""

import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.train.chat import fake_chat
from tests.train.chat.fake_chat import FakeModel, FakeScorer
from train.chat import run as chat
from train.chat import terminal
from train.chat.display import CLEAR
from train.chat.session import Session

ROOT = Path(__file__).parents[3]


class Screen:
    """A process on a terminal of its own."""

    def __init__(self, columns: int, *argv: str):
        self._fd, terminal = pty.openpty()
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        env = os.environ | {"PYTHONPATH": str(ROOT), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
        env.pop("COLUMNS", None)  # else it, and not the terminal, says how wide that is
        self.process = subprocess.Popen(
            [sys.executable, *argv], stdin=terminal, stdout=terminal, stderr=terminal, env=env,
            start_new_session=True, preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)
        self._read = ""

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, expected: str, seconds: float = 120.0) -> str:
        """The text up to and with `expected`, which the process writes within some seconds."""
        end = time.monotonic() + seconds
        while expected not in self._read:
            ready, _, _ = select.select([self._fd], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {expected!r} in {self._read!r}"
            self._read += os.read(self._fd, 65536).decode()
        before, _, self._read = self._read.partition(expected)
        return before + expected

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def screen():
    screen = Screen(60, fake_chat.__file__)
    yield screen
    screen.close()


def test_a_conversation_on_a_terminal(screen, tmp_path):
    """Pasted lines are one question; Ctrl-C stops an answer and no more."""
    screen.until("you ›")
    screen.send("\x1b[200~first line\nsecond line\x1b[201~")
    screen.until("second line")
    screen.send("\r")
    screen.until("model › ")
    screen.until("long long")
    screen.send("\x03")
    assert "^C" not in screen.until("… stopped")
    screen.until("you ›")
    screen.send(f"/save {tmp_path}/a.jsonl\r")
    screen.until("1 turn written")
    screen.send("/regenerate\r")
    screen.until("model › ")
    answer = screen.until(" 1")  # the second draw, to its end
    assert answer.count("long") == 60
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", answer)  # without styles and movements
    assert all(len(line) < 60 for line in re.split(r"[\r\n]+", written))
    screen.until("you ›")
    screen.send(f"/save {tmp_path}/b.jsonl\r")
    screen.until("1 turn written")
    screen.send("/regenerat\r")
    screen.until("there is no command /regenerat; did you mean\r\n/regenerate?")
    screen.until("you ›")
    screen.send("dropped\x03")
    screen.until("(Ctrl-D or /quit ends)")
    screen.until("you ›")
    screen.send("/quit\r")
    assert screen.process.wait(100) == 0
    first, second = (json.loads((tmp_path / f"{n}.jsonl").read_text())["messages"] for n in "ab")
    assert first[0] == second[0] == {"role": "user", "content": "first line\nsecond line"}
    assert first[1]["weight"] == 0 and second[1]["content"].startswith(first[1]["content"])


@pytest.fixture
def tty(monkeypatch):
    """tty(columns): a terminal of that width, without escape sequences of styles."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_remarks_beside_an_answer(tty, capsys):
    tty(60)
    session = Session([FakeModel("a", "one \x1b[2J two three", limit=3, room=1)], FakeScorer())
    talk = terminal.Terminal(session)
    for question in "xyz":
        talk.take(question)
    lines = capsys.readouterr().out.splitlines()
    remarks = "… cut at 3 tokens; --max_new_tokens · reward 12.000"
    answer = [r"model › one \x1b[2J two", remarks, ""]
    forgotten = ["(the oldest turn no longer fits the context)"]
    forgotten_2 = ["(the 2 oldest turns no longer fit the context)"]
    assert lines == [*answer, *forgotten, *answer, *forgotten_2, *answer]


@pytest.mark.parametrize(("columns", "beside"), [(99, False), (100, True), (120, True)])
def test_two_answers_are_beside_each_other_where_there_is_room(tty, capsys, columns, beside):
    tty(columns)
    models = [FakeModel("runs/a", "left " * 30, limit=20), FakeModel("runs/b", "right " * 3)]
    session = Session(models, temperature=0.0)
    terminal.Terminal(session).take("q")
    out = capsys.readouterr().out
    assert ("│" in out) == beside
    assert ("runs/a › left" in out) != beside
    assert "runs/a: … cut at 20 tokens" in out and "runs/b: …" not in out
    assert [answer.tokens for answer in session.turns[0].answers] == [20, 3]


def test_ctrl_c_stops_both_answers(tty, capsys):
    tty(120)
    models = [FakeModel("runs/a", "left " * 30), FakeModel("runs/b", "right " * 30)]
    session = Session(models)
    stream = models[1].stream

    def interrupted(*args):
        for answer in stream(*args):
            if answer.tokens == 2:
                signal.raise_signal(signal.SIGINT)
            yield answer

    models[1].stream = interrupted
    terminal.Terminal(session).take("q")
    assert [answer.tokens for answer in session.turns[0].answers] == [2, 2]
    out = capsys.readouterr().out
    assert "runs/a: … stopped" in out and "runs/b: … stopped" in out


def test_commands_change_what_they_say_and_a_bad_value_changes_nothing(tty, capsys):
    tty(60)
    session = Session([FakeModel("a", "yes")])
    talk = terminal.Terminal(session)
    talk.take("/temperature 0.2")
    talk.take("/system\nbe brief\nand kind")
    talk.take("/etc/passwd is a file?")  # a question
    assert session.models[0].messages[0]["content"] == "be brief\nand kind"
    assert session.temperature == 0.2 and len(session.turns) == 1
    for wrong in ("/temperature hot", "/save talk.txt", "/nothing", "x" * 3000):
        with pytest.raises(ValueError):
            talk.take(wrong)
    assert session.temperature == 0.2 and len(session.turns) == 1
    capsys.readouterr()
    talk.take("/help")
    talk.take("/temperature")
    talk.take("/system")
    talk.take("/reset")
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in talk._commands if name != "/help")
    assert "(temperature 0.2)\n(no system message)\n(a new conversation)" in out
    assert session.system == "" and session.turns == []
    with pytest.raises(EOFError):
        talk.take("/quit")


def test_in_a_pipe_the_answer_alone_is_printed(monkeypatch, capsys):
    """Every line of standard input is a turn; remarks go to standard error."""
    text = "one\n\x1b[1m " + "long " * 50
    session = Session([FakeModel("a", text, limit=40, room=1)], FakeScorer(), temperature=0.0)
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n\ny\n/reset\nz\n/quit\nw\n"))
    terminal.converse(session, "a notice")
    out, err = capsys.readouterr()
    assert out == (session.turns[0].answers[0].shown + "\n") * 3
    assert err.count("cut at 40 tokens") == err.count("reward") == 3
    assert "the oldest turn" in err and "a new conversation" in err and "notice" not in err
    assert [turn.question for turn in session.turns] == ["z"]


def test_one_prompt_is_answered_without_a_label(tty, capsys):
    tty(60)
    terminal.answer_once(Session([FakeModel("a", "long " * 30, limit=20)]), "q")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "long " * 11 + "long",
        ("long " * 8).strip(),
        "… cut at 20 tokens; --max_new_tokens",
    ]


def test_one_prompt_is_answered_alone_in_a_pipe(capsys):
    models = [FakeModel("a", "yes"), FakeModel("b", "no")]
    terminal.answer_once(Session(models[:1], temperature=0.0), "q")
    assert capsys.readouterr() == ("yes\n", "")
    terminal.answer_once(Session(models, temperature=0.0), "q")
    assert capsys.readouterr() == ("yes\n\nno\n", "")


def test_an_error_has_its_own_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(ValueError, match="does not exist"):
        chat.run(str(tmp_path / "none"), "", "", {"max_new_tokens": 8, "temperature": 1.0})
    assert capsys.readouterr().err.endswith(f"none …{CLEAR}")
