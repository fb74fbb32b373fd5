"""The lock of a workdir, between processes that are forked for it."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ranges import ConfigError
from train.guards import lock
from train.guards.lock import Lock, owned
from train.runtime import outputs, processes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "LOOK", 0.05)


def fork(function) -> int:
    """The number of a process that calls a function, and ends with what it returns."""
    if pid := os.fork():
        return pid
    try:
        os._exit(function() or 0)
    finally:
        os._exit(99)  # it raised


def ends(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def files(workdir) -> list[str]:
    return sorted(path.name for path in Path(workdir).iterdir())


def killed_owner(workdir) -> int:
    """The number of a process that owned a workdir when it was killed, and is a zombie."""

    def own():
        with owned(workdir):
            os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(own)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_second_run_is_refused_and_is_told_whose_it_is(tmp_path):
    with owned(tmp_path):
        with pytest.raises(ConfigError) as refused, owned(tmp_path):
            pass
        text = str(refused.value)
        assert f"{tmp_path} is in use by process {os.getpid()} on " in text
        assert f"kill {os.getpid()}" in text and "pytest" in text and "another --workdir" in text
        assert files(tmp_path) == ["lock.1"]
    assert files(tmp_path) == []
    with owned(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, capsys):
    pid = killed_owner(tmp_path)
    assert files(tmp_path) == ["lock.1"]
    begun = time.monotonic()
    with owned(tmp_path):
        assert files(tmp_path) == ["lock.2"]
    assert time.monotonic() - begun < 30 < lock.STALE and files(tmp_path) == []
    assert f"was in use by process {pid} on " in capsys.readouterr().out
    assert ends(pid) == -signal.SIGKILL


def owner_process(workdir, beat=lock.BEAT):
    """The pid of a process that owns a workdir for two minutes."""

    def own():
        lock.BEAT = beat
        with owned(workdir):
            (workdir / "owned").touch()
            time.sleep(120)

    pid = fork(own)
    until((workdir / "owned").exists)
    return pid


def test_a_suspended_process_keeps_its_workdir(tmp_path):
    pid = owner_process(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    os.utime(tmp_path / "lock.1", (0, 0))
    refused = rf"process {pid} on .* whose last sign of life is \d"
    try:
        with pytest.raises(ConfigError, match=refused), owned(tmp_path):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        ends(pid)


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path, capsys):
    owner = lock._this_process() | {"id": "other", "started": "1"}
    (tmp_path / "lock.1").write_text(json.dumps(owner))
    with owned(tmp_path):
        assert "taken over" in capsys.readouterr().out


@pytest.mark.parametrize("stale", [True, False], ids=["stale", "none"])
def test_of_several_that_come_at_once_one_wins(tmp_path, stale):
    if stale:
        ends(killed_owner(tmp_path))

    def come():
        signal.sigwait({signal.SIGUSR1})
        with contextlib.suppress(ConfigError), owned(tmp_path):
            until((tmp_path / "others ended").exists)
            return 7

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    pids = [fork(come) for _ in range(8)]
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
    until(lambda: sum(os.waitid(os.P_PID, pid, ended) is not None for pid in pids) == 7)
    (tmp_path / "others ended").touch()
    assert sorted(map(ends, pids)) == [0] * 7 + [7]
    assert files(tmp_path) == ["others ended"]  # the winner's lock is gone


def elsewhere(monkeypatch, take):
    """The result of `take` on another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_machine", lambda: "elsewhere")
        return take()


@pytest.mark.parametrize("alive", [True, False])
def test_another_machine_s_is_waited_for(tmp_path, bucket, monkeypatch, capsys, alive):
    """On a file system and on an object store: it is refused as soon as it gives a sign of life,
    and taken over when there was none for a while."""
    monkeypatch.setattr(lock, "STALE", 30.0 if alive else 0.5)
    for workdir in (tmp_path, "gs://bucket/run"):
        other = elsewhere(monkeypatch, lambda: Lock(workdir))  # noqa: B023
        assert other.take() == ""
        if alive:
            timer = threading.Timer(0.5, other._renew)
            timer.start()
            with pytest.raises(ConfigError, match=rf"{workdir} is in use .*kill {os.getpid()} on "):
                owned(workdir).__enter__()
            timer.join()
        else:
            begun = time.monotonic()
            with owned(workdir):
                assert 0.3 < time.monotonic() - begun < 30
            assert "which is gone: taken over" in capsys.readouterr().out
            assert other._renew() is None  # nobody has it now
        other.release()


def test_locks_of_an_object_store(bucket):
    with owned("gs://bucket/run"):
        with (
            pytest.raises(ConfigError, match="gs://bucket/run is in use"),
            owned("gs://bucket/run"),
        ):
            pass
        assert list(bucket.store) == ["/bucket/run/lock.1"]
    assert not bucket.store


def test_an_owner_whose_lock_was_taken_over_leaves(tmp_path, capfd):
    pid = owner_process(tmp_path, beat=0.05)
    other = lock._this_process()
    (tmp_path / "lock.2").write_text(json.dumps(other))
    assert ends(pid) == processes.TAKEN_OVER
    assert f"was taken over by process {os.getpid()}" in capfd.readouterr().err
    assert (tmp_path / "lock.2").exists()  # not its own to remove


def test_signs_of_life_renew_the_file_and_restore_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with owned(tmp_path):
        path = tmp_path / "lock.1"
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)
        path.unlink()
        until(path.exists)
    time.sleep(0.1)
    assert not path.exists()


def test_a_process_that_leaves_at_once_releases_its_lock(tmp_path):
    def leave():
        with owned(tmp_path):
            processes.end(5)

    assert ends(fork(leave)) == 5
    assert files(tmp_path) == []


def test_a_disk_that_cannot_be_written_is_no_reason_to_end(capsys):
    with owned("/proc/self"):
        pass
    assert "warning: lock cannot be written" in capsys.readouterr().err
    outputs.report()


def test_a_file_that_is_just_being_written_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / "lock.1").touch()
    monkeypatch.setattr(lock, "STALE", 0.3)
    begun = time.monotonic()
    with owned(tmp_path):
        assert time.monotonic() - begun > 0.2
