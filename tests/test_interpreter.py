"""The Python that runs Seedpod: a wrong one is refused in a line, and hints name the right one.
Ctrl-C ends a command in a line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import interpreter

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["train", "train.chain", "data.inspect", "tpu.launch"])
def test_a_python_without_packages_is_told_how_to_get_them(command, tmp_path):
    code = f"import runpy; runpy.run_module('{command}', run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, text=True, capture_output=True,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {sys.executable} has no JAX")
    assert ended.stderr.endswith("Type `make setup`, then `. .venv/bin/activate`\n")
    assert ended.stderr.count("\n") == 1


def test_an_old_python_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"is Python 3\.10; .* 3\.11 or later\. Type `\. \.venv/"):
        interpreter.check()


def test_the_command_runs_this_interpreter_where_the_user_is(monkeypatch, tmp_path):
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    monkeypatch.chdir(tmp_path)
    assert interpreter.python() == ".venv/bin/python3"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert interpreter.python() == str(folder / "python3")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)  # activated
    assert interpreter.python() == "python"
    (folder / "python").unlink()
    assert interpreter.python() == "python3"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Runs Python in a folder whose package is interrupted by its command, or while that imports
    a module that takes every failure for its own."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "room").mkdir()
    (folder / "room" / "__init__.py").write_text("import interpreter\ninterpreter.check()\n")
    press = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (folder / "room" / "command.py").write_text(press)
    (folder / "room" / "library.py").write_text(press)
    (folder / "room" / "imports.py").write_text(
        "try:\n    from room import library\nexcept BaseException as e:\n    print(repr(e))\n"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, text=True, capture_output=True,
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return run


@pytest.mark.parametrize("module", ["room.command", "room.imports"])
def test_an_interrupted_command_ends_with_a_line(interrupted, module):
    ended = interrupted("-m", module)
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, "interrupted\n", "")


def test_elsewhere_an_interrupt_stays_pythons(interrupted):
    ended = interrupted("-c", "import room.command")
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    ended = interrupted("-c", "import room.imports")
    assert (ended.returncode, ended.stdout) == (0, "KeyboardInterrupt()\n")
