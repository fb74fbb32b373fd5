"""A time limit ends what takes longer, and restores the signal's handler."""

import signal
import threading
import time

import pytest

from train.rl.time_limit import time_limit


def test_the_error_is_raised_after_the_limit():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match="too long"), time_limit(0.05, TimeoutError("too long")):
        time.sleep(10)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


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
