"""Workers of a sweep: which runs they take, one compilation a program, their cores."""

import os
import threading
from types import SimpleNamespace

import pytest

from train.sweep import workers
from train.sweep.programs import Count


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Starts a worker in a thread on four runs of two programs; hold(number) is called in a run
    before its program is compiled."""
    monkeypatch.setattr(workers.processes, "leave_with_parent", lambda: None)
    monkeypatch.setattr(workers, "_program", lambda run: f"program-{run}")
    taken, threads = [], []

    def start(name, hold=lambda number: None):
        steps = SimpleNamespace(compiled=lambda: None)

        def run(run, number):
            taken.append((name, number))
            hold(number)
            steps.compiled()

        runner = SimpleNamespace(run=run, steps=steps)
        thread = threading.Thread(
            target=workers.work, args=(tmp_path / name, runner, list("abab"), Count()), daemon=True
        )
        thread.start()
        threads.append(thread)
        return thread

    yield SimpleNamespace(start=start, taken=taken, folder=tmp_path)
    for thread in threads:
        thread.join(10)


def test_a_worker_stays_with_its_program(work):
    work.start("1").join(10)
    assert work.taken == [("1", 1), ("1", 3), ("1", 2), ("1", 4)]
    assert (work.folder / "compiled-1").read_text() == "0"


def test_the_others_wait_for_a_program_that_one_compiles(work):
    compiling, compiled = threading.Event(), threading.Event()

    def hold(number):
        if number == 1:
            compiling.set()
            compiled.wait(10)

    first = work.start("1", hold)
    assert compiling.wait(10)
    second = work.start("2")
    second.join(0.3)
    assert second.is_alive() and work.taken == [("1", 1), ("2", 2), ("2", 4)]
    compiled.set()
    first.join(10)
    second.join(10)
    assert sorted(number for _, number in work.taken) == [1, 2, 3, 4]


def test_cores_are_shared_equally_however_many_runs_are_left(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5, 6}, raising=False)
    assert workers.shares(2) == [[0, 1], [4, 5]]
    assert workers.shares(6) == [[0], [1], [4], [5], [6], [0]]
