"""The watchdog, in processes that hang."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from local_runs import ROOT

from train.guards import watchdog
from train.guards.watchdog import STEP, Activity, Watchdog, WatchdogConfig
from train.runtime import processes

PROGRAM = """
import sys, time
from train.guards import watchdog
from train.guards.watchdog import Activity, Watchdog, WatchdogConfig

watchdog.TICK = 0.05
activity = Activity()

def reward_that_never_returns():
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))

with Watchdog(WatchdogConfig(first=float(sys.argv[1])), activity), activity.during("rollout"):
    reward_that_never_returns()
"""


def start(limit, seconds, log):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(limit), str(seconds)], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_hangs_ends_with_its_stacks(tmp_path):
    with open(tmp_path / "log.txt", "w") as log:
        process = start(0.3, 60, log)
    assert process.wait(100) == processes.HUNG == 128 + signal.SIGALRM
    text = (tmp_path / "log.txt").read_text()
    hangs = r"a rollout hangs: it has taken 0:\d\d, more than 0:00\. The stacks of all threads"
    assert re.search(f"{hangs}:", text)
    assert "in reward_that_never_returns" in text
    assert re.search(rf"error: {hangs} are in {tmp_path}/log\.txt\. The same command resumes", text)


def test_a_suspended_process_does_not_hang(tmp_path):
    with open(tmp_path / "log.txt", "w") as log:
        process = start(1.5, 0.4, log)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    assert process.wait(100) == 0


def test_the_limit_follows_the_median():
    activity = Activity()
    dog = Watchdog(WatchdogConfig(factor=10, least=5, first=99), activity)
    activity.durations["evaluate"].append(0.1)
    assert dog.limit("evaluate") == 99  # no steps are done yet
    activity.recorded(1.0)
    assert dog.limit("evaluate") == dog.limit(STEP) == 10
    assert dog.limit("checkpoint") == 99
    activity.durations["evaluate"].extend([20.0, 20.0])
    assert dog.limit("evaluate") == 200
    for _ in range(9):
        activity.recorded(0.01)
    assert dog.limit(STEP) == 5


def test_what_is_done_between_steps_does_not_interrupt_them():
    activity = Activity()
    assert activity.key()[0] == "init"
    activity.enter(STEP)
    steps = activity.key()
    with activity.during("data_wait"):
        first = activity.key()
    with activity.during("data_wait"):
        assert activity.key() != first
    assert activity.key() == steps
    activity.recorded(1.0)
    assert activity.key() != steps


def test_a_factor_of_0_switches_it_off(monkeypatch):
    monkeypatch.setattr(watchdog, "TICK", 0.01)
    monkeypatch.setattr(watchdog, "end", lambda *args: pytest.fail("it watches"))
    with Watchdog(WatchdogConfig(factor=0.0, first=0.01), Activity()):
        time.sleep(0.1)
