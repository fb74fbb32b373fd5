"""Throughput of a run: tokens, FLOPs and the time of its batches between two records of its
metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import jax


class Throughput:
    """Counters of tokens, FLOPs, rollouts and waiting since the last `measure`.

    Args:
      peak_flops: of one device, FLOP/s; None if it is unknown.
    """

    def __init__(self, peak_flops: float | None):
        self._peak, now = peak_flops, time.perf_counter()
        self._restart(now)
        self._since_rollout, self._rollout = now, 0.0

    def _restart(self, now: float) -> None:
        self._since, self._tokens, self._flops, self._waited = now, 0, 0.0, 0.0

    def add(self, tokens: int = 0, flops: float = 0.0) -> None:
        """Counts tokens and FLOPs."""
        self._tokens += tokens
        self._flops += flops

    def drew(self, seconds: float, rollout: bool) -> None:
        """Counts the time of a batch: of waiting for data, or of a rollout."""
        if rollout:
            self._rollout += seconds
        else:
            self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._since += seconds
        self._since_rollout += seconds

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

    def rollout_share(self) -> float:
        """The share of the time since the last call that went into a rollout. It is called once a
        rollout, as the share between two other records would be all or nothing."""
        now = time.perf_counter()
        share = self._rollout / (now - self._since_rollout)
        self._since_rollout, self._rollout = now, 0.0
        return share
