"""A time limit for code that cannot be trusted to end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

AGAIN = 1.0  # seconds until the error is raised again in code that has caught it
# Set when a user's function was ended by its limit: threads that it has started may never end.
left_behind = threading.Event()


@contextlib.contextmanager
def time_limit(seconds: float, error: BaseException) -> Iterator[None]:
    """A context in which `error` is raised after `seconds`, and again and again until the context
    is left. Only the main thread gets signals; in other threads there is no limit. A limit may be
    inside of another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inside = True

    def stop(*_):
        if inside:
            raise error

    begun, (outer, interval) = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            inside = False
    finally:  # also if the alarm came between the two
        inside = False
        left = outer and max(outer - (time.monotonic() - begun), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
