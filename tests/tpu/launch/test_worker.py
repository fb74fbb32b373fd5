"""The commands that gcloud runs in a worker's shell, and worker.sh."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tpu.launch import commands

JOB = commands.QueuedJob("q", "us-west4-a", "v5e-16", "gs://b")


def remote(command, home):
    """Runs a worker's command, with its home and a metadata server that gives it number 2."""
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / "curl").write_text("#!/bin/sh\nprintf 2\n")
    (home / "bin" / "hostname").write_text("#!/bin/sh\necho t-2\n")
    for program in (home / "bin").iterdir():
        program.chmod(0o755)
    env = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True).stdout


def test_what_logs_asks_of_a_worker(tmp_path):
    (tmp_path / "seedpod").mkdir()
    log = tmp_path / "seedpod" / "log.txt"
    log.write_text("step 1\nValueError: no disk\nerror: no disk\nbye\n")
    error = f"ERROR {int(log.stat().st_mtime)} t-2:ValueError: no disk\n"
    assert (
        remote(commands.remote_logs("2", 2), tmp_path) == f"{error}t-2: error: no disk\nt-2: bye\n"
    )
    assert remote(commands.remote_logs("0", 2), tmp_path) == error
    assert remote(commands.remote_logs("all", 1), tmp_path) == f"{error}t-2: bye\n"


def test_what_a_worker_says_of_itself(tmp_path):
    state = tmp_path / "seedpod"
    state.mkdir()
    assert remote(commands.REMOTE_RUNNING, tmp_path) == "none\n"
    (state / "exit-1").write_text("134\n")
    assert remote(commands.REMOTE_STATE, tmp_path) == "t-2: ended with 134\n"
    (state / "pid").write_text(f"{os.getpid()}\n")
    (state / "attempt").write_text("7\n")
    assert remote(commands.REMOTE_STATE, tmp_path) == "t-2: running\n"
    assert remote(commands.REMOTE_RUNNING, tmp_path) == "7\n"


def test_what_is_in_the_bucket_is_found_below_home():
    command = ["train", "--a=gs://b/x y", "--c=('gs://b/d','gs://b/e')", "--f=it's", "gs://other/g"]
    remote = commands.remote_start(JOB, "c0ffee", "1", command)
    words = remote[remote.index(" b train") + 8 : remote.index(" --distributed")]
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], env={"HOME": "/h"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.splitlines() == [
        "--a=/h/bucket/x y", "--c=('/h/bucket/d','/h/bucket/e')", "--f=it's", "gs://other/g",
    ]  # fmt: skip


@pytest.fixture
def worker(tmp_path):
    """worker(attempt): starts worker.sh, with its set-up left out, on a program that saves when it
    is asked to stop; the bucket is a directory."""
    source = (Path(commands.__file__).parent / "worker.sh").read_text()
    start = source.index("setup() {")
    stop = source.index("# As cloud.google.com")
    (tmp_path / "tpu").mkdir()
    waits = 'setup() { while [ -e "$HOME/wait" ]; do sleep 0.1; done; }\n'
    (tmp_path / "tpu" / "worker.sh").write_text(source[:start] + waits + source[stop:])
    for directory in ("seedpod/venv/bin", "bucket", "bin"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "seedpod" / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bin" / "mountpoint").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "mountpoint").chmod(0o755)
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(42)); "
    program += "print('up', flush=True); [time.sleep(0.1) for _ in range(600)]"
    (tmp_path / "program.py").write_text(program)
    started = []

    def worker(attempt):
        log = open(tmp_path / "seedpod" / "log.txt", "w")  # noqa: SIM115
        env = {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        words = ["sh", str(tmp_path / "tpu" / "worker.sh"), attempt, "b", "program"]
        started.append(subprocess.Popen(words, stdout=log, env=env, start_new_session=True))
        return started[-1]

    yield worker
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def until(condition):
    limit = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["the machine shuts down", "the supervisor asks"])
def test_the_worker_leaves_the_exit_code_and_passes_sigterm_on(worker, tmp_path, how):
    process, state = worker("7"), tmp_path / "seedpod"
    until(lambda: (state / "log.txt").read_text() == "up\n")
    if how == "the machine shuts down":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        remote(commands.REMOTE_STOP, tmp_path)
    process.wait(100)
    assert (state / "exit-7").read_text() == "42\n" and not (state / "pid").exists()
    (log,) = (tmp_path / "bucket" / "logs" / "7").iterdir()
    assert log.read_text() == "up\n"


def test_a_worker_that_is_asked_while_it_sets_up_does_not_start(worker, tmp_path):
    (tmp_path / "wait").touch()
    process, state = worker("8"), tmp_path / "seedpod"
    until((state / "pid").exists)
    remote(commands.REMOTE_STOP, tmp_path)
    (tmp_path / "wait").unlink()
    process.wait(100)
    assert (state / "exit-8").read_text() == "42\n" and (state / "log.txt").read_text() == ""
