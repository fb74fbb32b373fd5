"""When a run is started again, and when not."""

import os
import signal
import threading
import time

import pytest

from tpu.launch.supervise import StopSignal, restarts, supervise


@pytest.mark.parametrize(
    "code,again", [(0, False), (1, False), (2, False), (130, False), (42, True), (74, True),
                   (134, True), (137, True), (143, True)],
)  # fmt: skip
def test_the_exit_code_says_whether_it_helps(code, again):
    assert restarts(code) is again


def play(outcomes, **settings):
    """Supervises attempts that end with (exit code, steps then safe)."""
    left, steps, said, waits = list(outcomes), [0], [], []

    def attempt():
        code, steps[0] = left.pop(0)
        return code

    stop = StopSignal()
    stop.sleep = waits.append
    code = supervise(attempt, lambda: steps[0], said.append, stop=stop, **settings)
    assert not left
    return code, said, waits


def test_it_starts_again_until_the_run_is_done():
    code, said, waits = play([(137, 5), (42, 9), (134, 12), (0, 20)])
    assert code == 0 and waits == [1, 1, 1]
    assert said[1] == "attempt 2 saved and stopped; step 9 is saved, restarting in 1 s"


def test_it_waits_longer_and_gives_up_when_no_step_is_gained():
    code, said, waits = play([(137, 5), (137, 5), (137, 5), (134, 5)])
    assert code == 134 and waits == [1, 2, 4]
    assert said[-1].endswith("3 attempts in a row got no further than step 5: giving up")


def test_a_step_gained_forgives_what_was_before():
    code, _, waits = play(
        [(137, 0), (137, 0), (137, 3), (137, 3), (0, 9)], longest_wait=3, give_up_after=3
    )
    assert code == 0 and waits == [2, 3, 1, 2]


def test_an_error_that_would_come_again_ends_it():
    assert play([(137, 5), (1, 5)])[0] == 1


def test_told_to_leave_it_ends_with_the_attempt_or_while_it_waits():
    said = []
    with StopSignal() as stop:

        def attempt():
            os.kill(os.getpid(), signal.SIGTERM)
            return 42

        assert supervise(attempt, lambda: 7, said.append, stop=stop) == 42
    assert said == ["attempt 1 saved and stopped; step 7 is saved; stopping as requested"]
    with StopSignal() as stop:
        begun = time.monotonic()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert supervise(lambda: 137, lambda: 7, said.append, stop=stop, first_wait=60) == 137
        assert time.monotonic() - begun < 50
