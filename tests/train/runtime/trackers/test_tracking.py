"""Trackers of any kind: they hold no step, end no run, and are refused before anything runs."""

import threading

import pytest

from ranges import ConfigError
from train.config.run import RunConfig
from train.loop import run
from train.runtime import outputs
from train.runtime.metrics import Metrics
from train.runtime.trackers import registry, tracking
from train.runtime.trackers.base import Tracker
from train.runtime.trackers.registry import TRACKERS, TrackingConfig


class Calls(Tracker):
    """A tracker that remembers its calls."""

    def __init__(self, target):
        self.target, self.calls = target, []

    def write_settings(self, settings):
        self.calls.append(("settings", dict(settings)))

    def write(self, step, values):
        self.calls.append((step, dict(values)))

    def write_samples(self, step, samples):
        self.calls.append((step, list(samples)))

    def go_back(self, step):
        self.calls.append(("back", step))

    def close(self, finished):
        self.calls.append(("closed", finished))


@pytest.fixture
def add(monkeypatch):
    """The function that adds a tracker for the time of a test."""
    rows = dict(TRACKERS)
    monkeypatch.setattr(TRACKERS, "_rows", rows)
    monkeypatch.setattr(outputs, "_reported", set())

    def add(open, **row):
        rows["mine"] = registry.TrackerType(open, **row)

    return add


def test_a_tracker_receives_the_run_and_the_same_id_when_it_is_resumed(add, tmp_path):
    opened = []
    add(lambda target: opened.append(Calls(target)) or opened[-1])
    for start, last in ((0, 2), (2, 4)):
        metrics = Metrics(tmp_path / "first", start, 4, True, ("mine",), TrackingConfig("a", True))
        metrics.write_settings({"steps": 4})
        metrics.write(last, "train", {"loss": 1.0})
        metrics.write_samples(last, [{"text": "é"}])
        metrics.close()
    first, second = opened
    scalars, samples = {"train/loss": 1.0}, [{"text": "é"}]
    assert first.calls == [
        ("settings", {"steps": 4}),
        (2, scalars),
        (2, samples),
        ("closed", False),
    ]
    assert second.calls[-1] == ("closed", True)
    assert first.target[1:5] == ("first", "a", True, 0) and second.target.start == 2
    assert first.target.id == second.target.id != tracking.tracked_id(tmp_path)
    assert not list(tmp_path.rglob("events*"))


def test_a_tracker_that_fails_or_hangs_is_counted_and_holds_nothing(
    add, tmp_path, capsys, monkeypatch
):
    class Broken(Calls):
        def write(self, step, values):
            raise ZeroDivisionError("no")

    add(Broken)
    metrics = Metrics(tmp_path / "a", 0, 9, True, ("mine",))
    for step in (1, 2):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    said = capsys.readouterr().err
    assert "tracker mine cannot be written (ZeroDivisionError: no): metrics.jsonl has" in said
    assert "tracker mine could not be written, 2 times in all" in said

    gate = threading.Event()
    add(lambda target: gate.wait() and Calls(target))
    monkeypatch.setattr(tracking, "PATIENCE", (0.1, 0.1))
    monkeypatch.setattr(tracking, "MOST_WAITING", 2)
    monkeypatch.setattr(outputs, "_reported", set())
    metrics = Metrics(tmp_path / "b", 0, 9, True, ("mine",))
    for step in range(1, 5):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    gate.set()
    said = capsys.readouterr().err
    assert "2 calls wait for it" in said and "could not be written" in said


def test_what_cannot_be_opened_is_one_line_before_anything_runs(add, tiny, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"trackers='wand'; choose .* did you mean wandb\?"):
        RunConfig(trackers="tensorboard,wand")
    with pytest.raises(ConfigError, match=r"tracking\.project='a/b'"):
        TrackingConfig(project="a/b")
    add(Calls, package="no_such_package", install="'seedpod[mine]'")
    tiny.trackers = ("mine",)
    with pytest.raises(ConfigError, match=r"needs the package no_such_package: pip install 'seed"):
        run(tiny, tmp_path / "run")
    add(Calls, missing=lambda offline: "" if offline else "there is no login: type `log in`")
    with pytest.raises(ConfigError, match=r"no login: type `log in`; or --config.tracking.offline"):
        run(tiny, tmp_path / "run")
    registry.check(("mine",), TrackingConfig(offline=True))
    assert not (tmp_path / "run").exists()
