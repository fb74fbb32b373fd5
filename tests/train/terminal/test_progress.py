"""The progress of a run: the live line at several widths, phases with and without a terminal."""

import io
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from train.terminal import console as consoles
from train.terminal import progress
from train.terminal.console import duration, lines_of
from train.terminal.progress import Progress, layout, phase

NAME = "a-run-with-a-long-name"
PARTS = ["loss 4.9436", "score 1.24", "KL 3.51", "78,972 tok/s", "MFU 43.0%", "rollout 43%"]
LEFT = "12:33:45 left"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("text", ["", "evaluating 120/600 0:05", "reading " + "x" * 90])
def test_the_line_fits_and_keeps_the_time_left(width, text):
    line = layout(width, "2/5 " + NAME, 10_000, 100_000, PARTS, text, LEFT).plain
    assert cell_len(line) <= width and line.endswith(LEFT) and " 10000/100000 " in line


def test_the_name_gives_way_first_and_then_the_last_metrics():
    def shown(width):
        line = layout(width, NAME, 10, 100, PARTS, "", LEFT).plain
        return line.split(" ")[0], [part for part in PARTS if part in line], "━" in line

    assert shown(200) == (NAME, PARTS, True)
    assert shown(120) == ("a-run-wit…", PARTS, True)
    assert shown(60) == ("a-run-with-a-…", PARTS[:1], True)
    counts = [len(shown(width)[1]) for width in range(40, 130)]
    assert counts == sorted(counts)
    assert layout(60, "sft", 1, 9, PARTS[:1], "", "").plain == "sft ━━━━━━━━━━ 1/9 loss 4.9436"
    wide = layout(60, "日本語" * 9, 10, 100, PARTS, "", LEFT).plain
    assert cell_len(wide) <= 60 and "…" in wide


@pytest.mark.parametrize("width", [30, 60, 120])
def test_messages_are_broken_between_their_parts(width):
    parts = [f"{n} words of a part" for n in range(9)]
    lines = lines_of(parts, width)
    assert all(len(line) <= width for line in lines)
    assert " · ".join(line.strip() for line in lines) == " · ".join(parts)
    assert all(line.startswith("    ") for line in lines[1:])


def test_a_part_that_is_wider_than_a_line_is_broken_between_words():
    text = "  steps: 30 -> 33; the wsd schedule follows: learning rate 0.0003 -> 0.00165 at step 30"
    lines = lines_of([text, "more"], 60)
    assert all(len(line) <= 60 for line in lines) and len(lines) == 2
    assert lines[0].startswith("  steps") and lines[1].startswith("    ")
    assert " ".join(lines).split() == [*text.split(), "·", "more"]


@pytest.fixture
def clock(monkeypatch):
    """A stopped clock; clock.now is its time."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_each_phase_is_a_line_once(clock, capsys):
    with Progress("sft", 4):
        for seconds in (1, 25, 25, 1):
            with phase("evaluating"), phase("evaluating", 8) as part:
                for done in range(1, 5):
                    clock.now += seconds / 4
                    part.count(2 * done)
        with phase("saving"):
            clock.now += 1
    with Progress("other", writes=False), phase("evaluating"):
        clock.now += 99
    with phase("of no run") as part:
        part.count(1)
    assert capsys.readouterr().out.splitlines() == [
        "sft: evaluating …",
        "sft: evaluating 4/8", "sft: evaluating took 0:25",
        "sft: evaluating 4/8", "sft: evaluating took 0:25",
        "sft: saving …",
    ]  # fmt: skip


def test_without_a_terminal_the_progress_is_a_line_now_and_then(clock, capsys):
    with Progress("sft", 4, done=1) as line:
        line.update(2, ["loss 1.0"], 61.0)
        clock.now += 5
        line.update(3, ["loss 0.9"], 5.0)
        line.update(4, ["loss 0.8"], 0.0)
    with Progress("silent", 4, writes=False) as silent:
        silent.update(4)
        silent.say("nothing")
    assert capsys.readouterr().out == "sft 2/4 loss 1.0 · 1:01 left\nsft 4/4 loss 0.8\n"


def test_on_a_terminal_phases_are_in_the_live_line(clock, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=60, soft_wrap=True)
    for module in (consoles, progress):
        monkeypatch.setattr(module, "console", terminal)
    with Progress("sft", 4) as line:
        with phase("compiling"):
            clock.now += 75
            assert line.line().plain == "sft ━━━━━━━━━━ 0/4 compiling … 1:15"
        line.update(2, ["loss 1.0"], 61.0)
        with phase("evaluating", 600) as part:
            part.count(120)
            expected = "sft ━━━━━━━━━━ 2/4 evaluating 120/600 · loss 1.0 · 1:01 left"
            assert line.line().plain == expected
        line.say("held-out loss", "x" * 50)
    written = terminal.file.getvalue()
    assert "took" not in written and "held-out loss\n" in written and "\x1b[2K    xxxx" in written
    assert written.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize("parts", [[], ["loss 1.0"]])
def test_the_live_line_stays_if_it_has_metrics(parts, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=60, soft_wrap=True)
    for module in (consoles, progress):
        monkeypatch.setattr(module, "console", terminal)
    with Progress("sft", 4) as line:
        line.update(0, parts)
    assert terminal.file.getvalue().endswith("\x1b[1A\x1b[2K") != bool(parts)


def test_an_error_is_broken_between_words_on_a_terminal_alone(monkeypatch, capsys):
    text = "interrupted; pretrain, sft done; reward starts again from step 0; the same command"
    monkeypatch.setenv("COLUMNS", "60")
    for terminal, lines in ((True, 2), (False, 1)):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        consoles.print_error(text)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines and " ".join(said) == text
        assert max(map(len, said)) <= 60 or not terminal


def test_texts():
    assert [duration(s) for s in (0.4, 59.6, 3599, 3600, 90_061)] == [
        "0:00", "1:00", "59:59", "1:00:00", "25:01:01",
    ]  # fmt: skip
