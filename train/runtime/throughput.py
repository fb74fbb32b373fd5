"""Throughput of a run: tokens, FLOPs and waiting time between two records of its metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import jax


class Throughput:
    """Counters of tokens, FLOPs and waiting time since the last `measure`.

    Args:
      peak_flops: of one device, FLOP/s; None if it is unknown.
    """

    def __init__(self, peak_flops: float | None):
        self._peak = peak_flops
        self._restart(time.perf_counter())

    def _restart(self, now: float) -> None:
        self._since, self._tokens, self._flops, self._waited = now, 0, 0.0, 0.0

    def add(self, tokens: int = 0, flops: float = 0.0, waited: float = 0.0) -> None:
        """Counts tokens, FLOPs, and seconds of waiting for a batch."""
        self._tokens += tokens
        self._flops += flops
        self._waited += waited

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def measure(self) -> dict[str, float]:
        """`tokens_per_second`, `data_wait` (a share of the time) and, where the peak is known,
        `mfu` since the last call."""
        now = time.perf_counter()
        seconds = now - self._since
        values = {"tokens_per_second": self._tokens / seconds, "data_wait": self._waited / seconds}
        if self._peak:
            values["mfu"] = self._flops / seconds / self._peak / jax.device_count()
        self._restart(now)
        return values
