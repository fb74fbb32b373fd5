"""Two local processes: an evaluation that fails in one of them, and where they listen."""

import json
import sys

import pytest
from local_runs import launch, records
from stage_fixtures import write_files

RECIPE = """
from pathlib import Path

from stage_fixtures import recipe


def get_config():
    config = recipe("pretrain", Path(__file__).parent)
    config.steps, config.checkpoint.every, config.evaluate.every = 4, 2, 2
    config.plugins = ("picky_evaluation",)
    config.evals = {"picky": {"type": "picky"}}
    return config
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds sockets in /proc")
def test_processes_agree_on_a_failure_and_listen_on_loopback_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LISTENING", str(tmp_path))
    write_files(tmp_path)
    (tmp_path / "picky.py").write_text(RECIPE)
    code, output = launch(
        "local", "--", f"--config={tmp_path / 'picky.py'}", f"--workdir={tmp_path / 'run'}"
    )
    assert code == 0, output
    assert output.count("evaluation picky failed at step") == 1
    last = [line for line in output.splitlines() if "evaluation picky failed" in line][-1]
    assert "times, the last at step 4: KeyError: 'only here'" in last
    evaluations = [r for r in records(tmp_path / "run") if r["kind"] == "eval"]
    assert all(r["failed"] == {"picky": "KeyError: 'only here'"} for r in evaluations)
    assert all("loss" in r and "picky/n" not in r for r in evaluations)
    for number in (0, 1):
        for line in (tmp_path / f"listening-{number}.txt").read_text().splitlines():
            count, reachable = json.loads(line)
            assert count and not reachable, (number, line)
