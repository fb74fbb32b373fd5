"""The Python that runs Seedpod: a wrong one is refused in a line, and hints name the right one."""

import os
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
