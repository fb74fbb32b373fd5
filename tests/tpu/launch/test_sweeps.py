"""Sweeps of launched runs with real launchers, and a controller that is killed: over loopback, and
against a gcloud that plays Cloud TPU with a folder as the bucket."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from local_runs import ROOT
from quick_compile import FLAGS
from stage_fixtures import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RECIPE = """
import pathlib
from stage_fixtures import recipe

def get_config():
    config = recipe("pretrain", pathlib.Path(__file__).parent)
    config.steps, config.evaluate.every, config.checkpoint.every = 30, 10, 5
    return config
"""
# The command `python -m train.sweep` with gs:// in a folder.
IN_BUCKET = """
import importlib, runpy, sys
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem

class Store(LocalFileSystem):
    protocol = ("gs", "gcs")

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://", FOLDER))

FOLDER = sys.argv.pop(1)
registry = importlib.import_module("fsspec.registry")._registry
for name in Store.protocol:
    registry[name] = Store
runpy.run_module("train.sweep", run_name="__main__", alter_sys=True)
"""
FILES = ("table.md", "sweep.json", "sweep.html")


@pytest.fixture
def start(tmp_path):
    """start(words…): a process of Python with the tests' helpers, which is killed at the end."""
    processes = []

    def start(*words):
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}", "XLA_FLAGS": FLAGS,
            "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=ROOT, text=True, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


def finish(process, code=0):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    return output


def until(condition, process):
    limit = time.monotonic() + 600
    while not condition():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()[0]
        time.sleep(0.05)


def children(text):
    """The command lines with `text` of this machine's processes."""
    done = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True).stdout
    return [line for line in done.splitlines() if text in line and "-m" in line.split()]


def lines(workdir):
    return sum(path.read_text().count("\n") for path in workdir.glob("*/seed*/metrics.jsonl"))


def test_killed_over_loopback_it_ends_the_same(tmp_path, start):
    """SIGKILL to the controller ends its runs, SIGTERM lets them save; the table is the same."""
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    words = ["-m", "train.sweep", f"--config={tmp_path / 'recipe.py'}", "--at_once=2",
             "--grid=optimizer.peak_lr=1e-3,3e-3", "--launch=local --processes=1"]  # fmt: skip
    whole, killed = (tmp_path / name / "runs" for name in ("a", "b"))
    output = finish(start(*words, f"--workdir={whole}"))
    assert "2 runs, each by tpu.launch local on 1 device, 2 at once" in output

    process = start(*words, f"--workdir={killed}")
    until(lambda: lines(killed) > 4, process)
    assert children(f"--workdir={killed}/peak")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    limit = time.monotonic() + 30
    while children(f"--workdir={killed}/peak"):
        assert time.monotonic() < limit
        time.sleep(0.1)

    before = lines(killed)
    process = start(*words, f"--workdir={killed}")
    until(lambda: lines(killed) > before, process)
    process.send_signal(signal.SIGTERM)
    assert "the runs at work are saved; the same command resumes there" in finish(process, 42)
    finish(start(*words, f"--workdir={killed}"))
    for name in FILES:
        assert (killed / name).read_text() == (whole / name).read_text()


def test_killed_it_finds_the_slices_that_it_has_requested(tmp_path, start, play):
    """Two runs on Cloud TPU; the controller is killed while the first trains."""
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "command.py").write_text(IN_BUCKET)
    bucket = tmp_path / "bucket"
    words = [tmp_path / "command.py", f"{bucket}/", f"--config={tmp_path / 'recipe.py'}",
             "--grid=optimizer.peak_lr=1e-3,3e-3", "--workdir=gs://b/runs/rates",
             "--launch=supervise --name=rates --accelerator=v5e-4 --zone=us-west4-a --bucket=gs://b"
             ]  # fmt: skip
    for number, rate in enumerate(("0.001", "0.003")):  # what the machines write
        folder = bucket / f"b/runs/rates/peak_lr={rate}/seed0"
        folder.mkdir(parents=True)
        records = [{"step": s, "kind": "eval", "loss": 5.0 - s / 30 - number} for s in (0, 30)]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text)

    def calls(verb):
        return [c for c in play.calls() if c[:4] == ["compute", "tpus", "queued-resources", verb]]

    play(lives=[["ACTIVE"]], ssh=["", *["running\n"] * 9])
    process = start(*words)
    until(lambda: len(calls("ssh")) >= 2, process)
    (mark,) = bucket.glob("b/runs/rates/*/seed0/launch.json")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = calls("create")
    assert len(first) == 1 and json.loads(mark.read_text())["name"] == first[0][4]
    limit = time.monotonic() + 30
    while children("--workdir=gs://b/runs/rates/"):  # the supervisor leaves
        assert time.monotonic() < limit
        time.sleep(0.1)

    # The attempt that runs, its end; the second run's start and end.
    play(states=["ACTIVE"], lives=[["ACTIVE"]], ssh=["17\n", "0\n", "", "0\n"])
    output = finish(start(*words))
    assert "attempt 17 is running already: waiting for it" in output
    created, deleted = calls("create"), calls("delete")
    assert len(created) == 1 and created[0][4] != first[0][4]
    assert [c[4] for c in deleted] == [first[0][4], created[0][4]]
    assert not list(bucket.rglob("launch.json"))
    assert "0.003" in (bucket / "b/runs/rates/table.md").read_text()
    play()
    finish(start(*words))
    assert play.calls() == []
