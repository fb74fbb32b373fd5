"""Two local processes: an evaluation that fails in one of them, and where they listen."""

import json
import sys

import pytest
from local_runs import launch, records
from stage_fixtures import write_files

# Raises in the second process alone, after each has written where it listens.
PLUGIN = """
import contextlib
import json
import os
from pathlib import Path

import jax

from train.evals.registry import evaluation

LOOPBACK = ("0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F")


def listening():
    '''(the number of sockets at which this process listens, the addresses among theirs that other
    machines reach).'''
    own = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(os.readlink(fd))
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    sockets = [x[1] for x in lines if x[3] == "0A" and f"socket:[{x[9]}]" in own]
    return len(sockets), [x for x in sockets if x.partition(":")[0] not in LOOPBACK]


@evaluation("picky", ("text",))
def picky(ctx, data, stage):
    def evaluate(trainable, frozen):
        number = jax.process_index()
        with open(Path(os.environ["LISTENING"]) / f"listening-{number}.txt", "a") as file:
            print(json.dumps(listening()), file=file)
        if number == 1:
            raise KeyError("only here")
        return {"n": 1.0}, []

    return evaluate
"""
RECIPE = """
import sys
from pathlib import Path

from stage_fixtures import recipe

sys.path.insert(0, str(Path(__file__).parent))


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
    (tmp_path / "picky_evaluation.py").write_text(PLUGIN)
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
