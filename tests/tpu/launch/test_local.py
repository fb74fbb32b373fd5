"""Several processes over loopback: as one process, as uninterrupted, and what goes wrong."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from local_runs import ONE, RECIPE, ROOT, last_step, launch, records, start, workers
from stage_fixtures import write_files

from tpu.launch import local
from train.runtime import processes

STAGES = ("pretrain", "sft", "reward", "ppo")
pytestmark = pytest.mark.timeout(1200)  # up to four processes, each of which compiles all stages
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("local")
    write_files(directory)
    (directory / "chain.py").write_text(RECIPE)
    (directory / "one.py").write_text(ONE)
    return directory


def chain(directory, workdir, count, devices, tensor=1):
    code, output = launch(
        "local", f"--processes={count}", f"--devices={devices}", "--", "-m", "train.chain",
        f"--config={directory / 'chain.py'}:{tensor}", f"--workdir={workdir}",
    )  # fmt: skip
    assert code == 0, output


@pytest.fixture(scope="module")
def four(directory):
    """All stages on four processes; two share each row of a batch."""
    chain(directory, directory / "four", 4, 1, tensor=2)
    return directory / "four"


def assert_close(got, want):
    """Records of two runs, within 1e-5 of the size of what is compared."""
    for a, b in zip(records(got), records(want), strict=True):
        assert a.keys() == b.keys() and a["step"] == b["step"]
        if a["kind"] == "train":
            for name in ("loss", "grad_norm"):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=str(a))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(1, 4), (2, 2)])
def test_processes_are_as_one_process_with_their_devices(directory, four, layout):
    workdir = directory / f"as{layout[0]}"
    chain(directory, workdir, *layout, tensor=2)
    for stage in STAGES:
        assert_close(workdir / stage, four / stage)


def take_back(workdir, stages):
    """Makes a finished chain one that stopped at step 6 of these stages."""
    for stage in stages:
        (workdir / stage / "DONE").unlink()
        shutil.rmtree(workdir / stage / "checkpoints" / "8")


@pytest.mark.slow
def test_restarted_on_the_same_layout_is_bit_for_bit(directory, four):
    workdir = directory / "again"
    shutil.copytree(four, workdir)
    take_back(workdir, ("pretrain", "ppo"))
    chain(directory, workdir, 4, 1, tensor=2)
    for stage in STAGES:
        assert records(workdir / stage) == records(four / stage)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(1, 4), (2, 2)])
def test_a_checkpoint_of_four_processes_resumes_on_fewer(directory, four, layout):
    """Losses of the steps taken again say that the rows and their order are the same."""
    workdir = directory / f"resumed{layout[0]}"
    shutil.copytree(four, workdir)
    take_back(workdir, ("pretrain", "ppo"))
    chain(directory, workdir, *layout, tensor=2)
    for stage in STAGES:
        assert_close(workdir / stage, four / stage)


@pytest.mark.slow
@LINUX
def test_supervised_a_run_survives_and_ends_with_the_same_losses(directory):
    """A worker killed, the coordinator killed, a worker frozen, a worker sent SIGTERM."""
    flags = ["local", "--processes=2", "--heartbeat=5", "--supervise", "--"]
    config = f"--config={directory / 'one.py'}:240"
    whole, workdir = directory / "whole", directory / "faults"
    code, output = launch(*flags, config, f"--workdir={whole}")
    assert code == 0, output

    run = start(["-m", "tpu.launch", *flags, config, f"--workdir={workdir}"])
    try:
        for step, number, fault in (
            (15, 1, signal.SIGKILL),
            (40, 0, signal.SIGKILL),
            (65, 1, signal.SIGSTOP),
            (90, 1, signal.SIGTERM),
        ):
            limit = time.monotonic() + 240
            while last_step(workdir) < step or not workers(workdir):
                assert run.poll() is None and time.monotonic() < limit, run.stdout.read()
                time.sleep(0.02)
            os.kill(workers(workdir)[number], fault)
        output, _ = run.communicate(timeout=240)
    finally:
        run.terminate()
    assert run.returncode == 0, output
    attempt_lines = [line for line in output.splitlines() if "launch: attempt" in line]
    assert len(attempt_lines) == 4, output
    assert (
        all("ended with 13" in line for line in attempt_lines[:3])
        and "saved and stopped" in attempt_lines[3]
    )
    assert records(workdir) == records(whole)


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize(
    ("who", "number", "code"),
    [
        ("alone", signal.SIGTERM, processes.PREEMPTED),
        ("a worker", signal.SIGTERM, processes.PREEMPTED),
        ("the supervisor", signal.SIGTERM, processes.PREEMPTED),
        ("alone", signal.SIGINT, processes.INTERRUPTED),
        ("the supervisor", signal.SIGINT, processes.INTERRUPTED),
    ],
)
def test_on_a_signal_it_saves_and_exits(directory, who, number, code):
    workdir = directory / f"leave-{who.split()[-1]}-{code}"
    what = ["-m", "train"] if who == "alone" else ["-m", "tpu.launch", "local", "--"]
    if who == "the supervisor":
        what.insert(-1, "--supervise")
    run = start([*what, f"--config={directory / 'one.py'}:5000", f"--workdir={workdir}"])
    while last_step(workdir) < 3:
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.02)
    os.kill(workers(workdir)[1] if who == "a worker" else run.pid, number)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == code, output
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert f"saved at step {saved};" in output and saved == last_step(workdir)


@pytest.mark.parametrize("supervised", [False, True])
def test_the_launcher_passes_sigterm_on_and_starts_nothing_more(tmp_path, supervised):
    """A program that takes a moment to save on SIGTERM."""
    (tmp_path / "saver.py").write_text(
        "import signal, sys, time\n"
        "def save(*_): time.sleep(0.5); print('saved', flush=True); sys.exit(42)\n"
        "signal.signal(15, save)\n"
        "print('up', sys.argv[-1], flush=True)\n"
        # Short sleeps: a signal between two bytecodes and one long sleep would wait for its end.
        "for _ in range(600): time.sleep(0.1)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "tpu.launch", "local", *["--supervise"] * supervised,
         "--", "-m", "saver", f"--workdir={tmp_path}"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        up = {run.stdout.readline() for _ in range(2)}
        assert up == {"up --process_id=0\n", "[1] up --process_id=1\n"}
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode == processes.PREEMPTED and "saved" in output and "up" not in output
    assert ("attempt 1 saved and stopped" in output) is supervised


@pytest.mark.slow
def test_what_one_run_compiled_another_finds(directory):
    """Two processes read the cache of two others: nothing is compiled again, equal losses."""
    cache, flags = directory / "cache", ["local", "--processes=2", "--"]
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    try:
        kept = []
        for name in ("first", "second"):
            code, output = launch(
                *flags, f"--config={directory / 'one.py'}:8", f"--workdir={directory / name}",
                f"--compilation_cache={cache}", "--profile_steps=5:7",
            )  # fmt: skip
            assert code == 0, output
            kept.append({path.name for path in cache.iterdir()})
    finally:
        del os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]
    assert kept[0] == kept[1] and any("train_step" in name for name in kept[0])
    assert records(directory / "first") == records(directory / "second")
    assert list((directory / "first" / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_a_deterministic_error_is_not_tried_again(directory):
    code, output = launch(
        "local", "--supervise", "--", f"--config={directory / 'one.py'}:8",
        f"--workdir={directory / 'wrong'}", "--config.data.batch_size=15",
    )  # fmt: skip
    assert code == 1 and "15, which the mesh's 2 batch shards" in output
    assert "attempt" not in output


def test_a_busy_port_is_one_line(capsys):
    from tpu.launch import verbs as command

    with socket.socket() as s:
        s.bind(("", 0))
        s.listen()
        port = s.getsockname()[1]
        assert command.main(["local", f"--port={port}", "--", "--workdir=w"]) == 1
        with pytest.raises(ValueError, match=f"port {port} is in use"):
            processes.join(f"localhost:{port}", 2, 0, 5, 10)
    assert capsys.readouterr().err == (
        f"error: port {port} is in use; end the program there, or leave --port out\n"
    )


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_peer_is_one_line_in_bounded_time(number):
    """The second does not come, or the first."""
    call = f"processes.join('127.0.0.1:{local.free_port()}', 2, {number}, 1, 10)"
    done = subprocess.run(
        [sys.executable, "-c", f"from train.runtime import processes; {call}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env=local.environment(1),
    )  # fmt: skip
    assert done.returncode == processes.LOST
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert f"process {number} of 2 waited 1 s at 127.0.0.1" in lines[0]


@pytest.mark.parametrize(
    "codes,code",
    [
        ([0, 0], 0),
        ([42, 42], 42),
        ([42, -9], 137),
        ([-6, 1], 1),
        ([134, 0], 134),
        ([0, 42], 42),
        ([74, 1], 1),
        ([74, 42], 74),
    ],
)
def test_the_exit_code_of_a_group_is_that_of_an_error_before_a_loss(codes, code):
    assert local.exit_code(codes) == code


def test_only_a_lost_process_of_several_is_a_lost_peer():
    assert not processes.is_lost_peer(RuntimeError("UNAVAILABLE: peer closed")), "one process"
    assert not processes.joined()


def test_workers_have_their_own_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_a=1")
    env = local.environment(2)
    assert env["JAX_NUM_CPU_DEVICES"] == "2" and env["XLA_FLAGS"] == "--xla_a=1"
