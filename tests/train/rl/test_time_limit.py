"""A time limit ends what takes longer, and restores the signal's handler."""

import signal
import threading
import time

import pytest

from train.rl.time_limit import time_limit


def test_the_error_is_raised_after_the_limit():
    before, (left, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(TimeoutError, match="too long"), time_limit(0.05, TimeoutError("too long")):
        time.sleep(10)
    assert signal.getsignal(signal.SIGALRM) is before
    assert left - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= left  # pytest's own


def test_code_that_catches_the_error_is_ended_too(monkeypatch):
    monkeypatch.setattr("train.rl.time_limit.AGAIN", 0.05)
    caught = []
    with pytest.raises(TimeoutError), time_limit(0.05, TimeoutError()):
        while True:
            try:
                time.sleep(10)
            except TimeoutError:
                caught.append(True)
                if len(caught) == 3:
                    raise
    time.sleep(0.1)  # no alarm comes later


def test_a_limit_inside_of_another_leaves_it_its_time():
    with pytest.raises(TimeoutError, match="outer"), time_limit(0.5, TimeoutError("outer")):
        with pytest.raises(TimeoutError, match="inner"), time_limit(0.05, TimeoutError("inner")):
            time.sleep(10)
        with time_limit(5, TimeoutError("inner")):
            pass
        time.sleep(10)


def test_in_other_threads_there_is_no_limit():
    finished = []

    def work():
        with time_limit(0.01, TimeoutError()):
            time.sleep(0.05)
            finished.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert finished
