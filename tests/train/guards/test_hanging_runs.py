"""Whole runs that hang, as processes: in a data source, a batch, a reward in Python and in C."""

import os
import subprocess
import sys

import pytest
import tiny_ppo
from local_runs import ROOT, start
from stage_fixtures import write_files

from train.checkpoints.checkpointer import Checkpointer
from train.runtime import processes

pytestmark = pytest.mark.slow
PROGRAM = """
import hashlib, sys, threading, time
from pathlib import Path
import jax
import tiny_ppo
from model import sharding
from train import loop
from train.cli import process
from train.objectives.base import LoaderSource
from train.rl import rewards
from train.rl.rollout import RolloutSource

directory, kind = Path(sys.argv[1]), sys.argv[2]
calls, next_batch = [], RolloutSource.next

def score(episode):
    calls.append(1)
    if len(calls) == tiny_ppo.ROWS + 3:  # in the second rollout
        if kind == "python":
            threading.Thread(target=time.sleep, args=(600,)).start()
            time.sleep(600)
        if kind == "C":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    return float(len(episode.response_ids) % 3)

def blocked(self, state, frozen, s, step):
    if kind == "batch" and step == 5:
        threading.Event().wait()
    return next_batch(self, state, frozen, s, step)

def main(argv):
    config = tiny_ppo.recipe("grpo", directory, roles=("policy",))
    config.rl.reward_function, config.rewards.timeout = "mine:score", 1.0
    config.watchdog.first, config.watchdog.least = 60.0, 3.0
    rewards.load_function = lambda name: score
    RolloutSource.next = blocked
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    loop.run(config, directory / "run", one, open_data=tiny_ppo.OPEN_DATA)

process.guarded(main, sys.argv)
"""


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("python", 1, "did not return within rewards.timeout=1 s"),
        ("C", processes.HUNG, "a rollout (sampling answers) hangs"),
        ("batch", processes.HUNG, "reading a batch hangs"),
    ],
)
def test_a_run_that_hangs_ends(tmp_path, kind, code, said):
    tiny_ppo.write_origins(tmp_path)
    process = start(["-c", PROGRAM, tmp_path, kind])
    text = process.communicate(timeout=120)[0]
    assert process.returncode == code, text
    assert said in text
    if code == 1:
        assert "The run is saved at step 4" in text
        assert Checkpointer(tmp_path / "run", 1).latest() == 4
    else:
        assert "Thread 0x" in text and "pbkdf2" not in said
    assert not list((tmp_path / "run").glob("lock.*"))


def test_a_pipe_that_nobody_writes_to_ends_the_setting_up(tmp_path):
    write_files(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    command = [sys.executable, "-m", "train", "--config=configs/pretrain.py:smoke",
               f"--workdir={tmp_path}/run", f"--config.data.source={tmp_path}/pipe.txt",
               "--config.watchdog.first=2"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == processes.HUNG, done.stderr
    assert "setting up" in done.stderr or "reading" in done.stderr
    log = tmp_path / "run" / "log.txt"
    assert f"The stacks of all threads are in {log}" in done.stderr
    assert "data/read" in log.read_text()
