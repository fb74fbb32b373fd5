import json
import sys
from pathlib import Path

import fake_gcloud
import pytest

from tpu.launch import queued
from tpu.launch.supervise import StopSignal


@pytest.fixture
def play(tmp_path, monkeypatch):
    """play(**plan): puts a gcloud and a kubectl on PATH that play it (fake_gcloud.EMPTY);
    play.calls(), play.verbs(): what was asked of them; play.stdin(): what they were given."""
    path = tmp_path / "plan.json"
    for name in ("gcloud", "kubectl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        python = f"exec {sys.executable} -SE {fake_gcloud.__file__}"
        program.write_text(f'#!/bin/sh\n{python} {path} {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(StopSignal, "sleep", lambda self, seconds: None)
    monkeypatch.setattr(queued, "sync", lambda job, gcloud, say: "c0ffee")

    def play(**plan):
        path.write_text(json.dumps(fake_gcloud.EMPTY | plan))

    play.calls = lambda: json.loads(path.read_text())["calls"]
    play.verbs = lambda: [c[3] if c[0] == "compute" else c[1] for c in play.calls()]
    play.stdin = lambda: json.loads(path.read_text())["stdin"]
    play.without = lambda name: (tmp_path / "bin" / name).unlink()
    Path(path).write_text(json.dumps(fake_gcloud.EMPTY))
    return play
