"""Ctrl-C, in processes with a terminal of their own."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from quick_compile import FLAGS

from train.runtime import processes
from train.terminal import saved

ROOT = Path(__file__).parents[3]
# Hashing releases the interpreter's lock and does not return, as XLA's compiler.
PROGRAM = """
import functools, hashlib, sys, time
from train.cli import process
from train.runtime import processes
from train.terminal import interrupts, saved
from train.terminal.progress import Progress, phase

def main(argv):
    interrupts.watch(functools.partial(saved.describe, sys.argv[1]))
    with Progress("run", 9), phase("working"), interrupts.mode(interrupts.Mode[sys.argv[2]]):
        try:
            print("ready", flush=True)
            if sys.argv[3] == "compiling":
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
            while not processes.asked_to_stop():
                time.sleep(0.05)
        except KeyboardInterrupt:
            if not interrupts.asked() or sys.argv[2] == "LEAVE":
                raise
        time.sleep(0.5)  # saves
        raise processes.Stopped(interrupts.stopped(37))

process.guarded(main, sys.argv)
"""


class Terminal:
    """A command that runs on a pseudo-terminal of 80 columns."""

    def __init__(self, *command: object):
        self._screen, other = pty.openpty()
        self.text = ""
        env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}", "COLUMNS": "80"}
        env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "TERM": "xterm"}
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=env,
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # takes the terminal
        )  # fmt: skip
        os.close(other)

    def wait_for(self, text: str) -> None:
        """Reads until the terminal shows a text."""
        while text not in self.text:
            assert self._read(), self.text[-3000:]

    def _read(self) -> bool:
        assert select.select([self._screen], [], [], 120)[0], self.text[-3000:]
        try:
            new = os.read(self._screen, 4096)
        except OSError:  # it is closed
            return False
        self.text += new.decode(errors="replace")
        return bool(new)

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        os.write(self._screen, b"\x03")

    def end(self) -> int:
        """Reads to the end; returns the exit code."""
        try:
            while self._read():
                pass
            return self._process.wait(100)
        finally:
            self._process.kill()
            os.close(self._screen)


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "checkpoints" / "30").mkdir(parents=True)
    (tmp_path / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "work", "presses", "said"),
    [
        ("STEP", "steps", 1, "stopping after this step, saving…; Ctrl-C again leaves at once"),
        ("STEP", "compiling", 2, "interrupted; saved at step 30; the same command resumes there"),
        ("EVALUATION", "steps", 1, "stopping this evaluation, saving…"),
        ("LEAVE", "steps", 1, "interrupted; saved at step 30; the same command resumes there"),
        ("LEAVE", "compiling", 1, "interrupted; saved at step 30; the same command resumes there"),
    ],
)
def test_the_first_saves_and_the_second_leaves(workdir, mode, work, presses, said):
    terminal = Terminal("-c", PROGRAM, workdir, mode, work)
    terminal.wait_for("ready")
    for number in range(presses):
        if number:
            terminal.wait_for("saving…")
        terminal.interrupt()
    assert terminal.end() == processes.INTERRUPTED, terminal.text
    assert said in terminal.text and "Traceback" not in terminal.text
    saves = mode != "LEAVE" and presses == 1
    assert ("saved at step 37; the same command resumes there" in terminal.text) == saves
    assert "\x1b[?25h" in terminal.text  # the cursor is shown again


def test_what_is_saved_is_read_from_the_workdir(tmp_path):
    again = "the same command resumes there"
    nothing = "nothing saved yet: the run starts again from step 0"
    assert saved.describe(tmp_path / "none") == saved.describe(tmp_path) == nothing
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    assert saved.describe(tmp_path) == nothing
    for step in (3, 20):
        (tmp_path / "checkpoints" / str(step)).mkdir()
    assert saved.describe(tmp_path) == f"saved at step 20; {again}"
    for stage, step in (("base", "8"), ("sft", "4"), ("ppo", "4.tmp")):
        (tmp_path / "chain" / stage / "checkpoints" / step).mkdir(parents=True)
    (tmp_path / "chain" / "base" / "DONE").touch()
    assert saved.committed_steps(tmp_path / "chain") == {"base": 8, "sft": 4}
    assert saved.describe(tmp_path / "chain") == (
        f"base done; ppo starts again from step 0; sft saved at step 4; {again}"
    )
