"""Throughput between two records."""

import time

import pytest

from train.runtime.throughput import Throughput


@pytest.fixture
def clock(monkeypatch):
    """A stopped clock; clock.now is its time."""

    class Clock:
        now = 10.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def test_what_was_counted_is_divided_by_the_time_without_pauses(clock):
    throughput = Throughput(None)
    throughput.add(30, 5.0)
    throughput.add(30)
    throughput.drew(1.0, rollout=False)
    with throughput.paused():
        clock.now += 100
    clock.now += 4
    assert throughput.measure() == {"tokens_per_second": 15.0, "data_wait": 0.25}
    clock.now += 2
    throughput.add(8)
    assert throughput.measure() == {"tokens_per_second": 4.0, "data_wait": 0.0}


def test_utilization_is_of_the_peak_of_all_devices(clock, monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 4)
    throughput = Throughput(100.0)
    throughput.add(1, flops=300.0)
    throughput.add(flops=100.0)
    clock.now += 2
    assert throughput.measure()["mfu"] == 400 / 2 / 100 / 4


def test_the_share_of_rollouts_is_that_of_whole_ones(clock):
    """Not that of the time between two records, of which most hold no rollout."""
    throughput = Throughput(None)
    for _ in range(2):
        clock.now += 3
        throughput.drew(3.0, rollout=True)
        throughput.measure()
        clock.now += 1
        throughput.drew(0.5, rollout=False)
        with throughput.paused():
            clock.now += 100
        assert throughput.measure()["data_wait"] == 0.5
        assert throughput.rollout_share() == 0.75
