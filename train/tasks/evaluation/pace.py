"""The estimate of the remaining time of an evaluation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from train.tasks.base import Likelihoods, Request, Rolling
from train.tasks.evaluation.samples import text_of

AT_ONCE = 0.05  # seconds within which items belong to one batch
PER_TOKEN = 8  # the cost of a generated token, in characters that are read


def cost(request: Request) -> int:
    """The cost of a request relative to others of its kind: about the characters it computes."""
    if isinstance(request, Rolling):
        return len(request.text)
    if isinstance(request, Likelihoods):
        contexts = {text_of(continuation.context) for continuation in request.continuations}
        return sum(map(len, contexts)) + sum(len(c.text) for c in request.continuations)
    tokens = request.max_new_tokens * request.samples
    return len(text_of(request.prompt)) + PER_TOKEN * tokens


class Pace:
    """Seconds per cost of each kind of request, and what is left of it.

    The first batch of a benchmark compiles, and does not count.

    Args:
      left: (kind, request) of what is to be answered.
    """

    def __init__(self, left: Iterable[tuple[str, Request]]):
        self._left, self._done = Counter[str](), Counter[str]()
        for kind, request in left:
            self._left[kind] += cost(request)
        self._seconds = dict.fromkeys(self._left, 0.0)
        self._first = self._last = 0.0

    def begin(self) -> None:
        """Starts a benchmark."""
        self._first = 0.0

    def add(self, kind: str, request: Request) -> float | None:
        """Counts an answer; returns the seconds that are left, or None as long as nothing is
        known."""
        now, size = time.monotonic(), cost(request)
        self._left[kind] -= size
        self._first = self._first or now
        if now - self._first > AT_ONCE:
            self._seconds[kind] += now - self._last
            self._done[kind] += size
        self._last = now
        if not (done := sum(self._done.values())):
            return None
        mean = sum(self._seconds.values()) / done
        return sum(
            count * (self._seconds[kind] / self._done[kind] if self._done[kind] else mean)
            for kind, count in self._left.items()
        )
