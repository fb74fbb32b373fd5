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
      peak_flops: of one device, FLOP/s; None if it is unknown. rollouts: whether the run has them.
    """

    def __init__(self, peak_flops: float | None, rollouts: bool = False):
        self._peak, self._rollouts = peak_flops, rollouts
        self._restart(time.perf_counter())

    def _restart(self, now: float) -> None:
        self._since, self._tokens, self._flops = now, 0, 0.0
        self._seconds = {"data_wait": 0.0, "rollout": 0.0}

    def add(self, tokens: int = 0, flops: float = 0.0) -> None:
        """Counts tokens and FLOPs."""
        self._tokens += tokens
        self._flops += flops

    def drew(self, part: str, seconds: float) -> None:
        """Counts the time of a batch: `data_wait`, or `rollout` if it needed one."""
        self._seconds[part] += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def measure(self) -> dict[str, float]:
        """`tokens_per_second`, `data_wait` and, of a run with rollouts, `rollout_share` (shares of
        the time), and, where the peak is known, `mfu` since the last call."""
        now = time.perf_counter()
        seconds = now - self._since
        values = {"tokens_per_second": self._tokens / seconds}
        values["data_wait"] = self._seconds["data_wait"] / seconds
        if self._rollouts:
            values["rollout_share"] = self._seconds["rollout"] / seconds
        if self._peak:
            values["mfu"] = self._flops / seconds / self._peak / jax.device_count()
        self._restart(now)
        return values
