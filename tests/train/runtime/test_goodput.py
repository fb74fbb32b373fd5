"""Goodput of a run, and its profiles."""

import json
import shutil
import socket
import time

import jax
import pytest
from stage_fixtures import recipe

from model import sharding
from ranges import ConfigError
from train import loop
from train.config.run import RunConfig
from train.runtime import goodput, profiling
from train.terminal.console import console


class Clock:
    """A time.time() that the test advances."""

    def __init__(self, now=1000.0):
        self.now = now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(goodput, "time", clock)
    return clock


def attempt(workdir, clock, first, last):
    """An attempt that takes steps `first` to `last` of 1 s each and saves for 2 s at its end."""
    with goodput.Goodput(workdir) as watch:
        clock.now += 4
        with watch.time("restore"):
            clock.now += 3
        for step in range(first, last):
            watch.step(step)
            with watch.time("data_wait"):
                clock.now += 0.25
            clock.now += 0.75
            watch.record(step + 1)
        with watch.time("checkpoint"):
            clock.now += 2
        watch.write()
        return watch.summary()


def test_every_second_counts_once_over_all_attempts(tmp_path, clock):
    attempt(tmp_path, clock, 0, 10)
    clock.now += 100  # no process runs
    parts = attempt(tmp_path, clock, 6, 12)  # 6 to 9 are taken again
    facts = json.loads((tmp_path / "goodput.json").read_text())
    assert facts["seconds"] == dict.fromkeys(goodput.PARTS, 0.0) | {
        "init": 8.0, "restore": 6.0, "data_wait": 4.0, "step": 9.0, "lost": 3.0, "checkpoint": 4.0,
    }  # fmt: skip
    assert sum(facts["seconds"].values()) == 34 == clock.now - 1000 - facts["between_seconds"]
    assert (facts["attempts"], facts["lost_steps"], facts["steps"]) == (2, 4, 12)
    assert parts == [
        "goodput 26% of 34.0 s in 2 attempts, 1:40 between them: step 9.0 s", "init 8.0 s",
        "restore 6.0 s", "data wait 4.0 s", "checkpoint 4.0 s", "lost 3.0 s (4 steps)",
    ]  # fmt: skip


def test_a_lap_is_the_time_since_the_last(tmp_path, clock):
    with goodput.Goodput(tmp_path) as watch:
        clock.now += 1
        watch.step(0)
        clock.now += 2
        assert watch.lap() == dict.fromkeys(goodput.PARTS, 0.0) | {"init": 1.0, "step": 2.0}
        clock.now += 3
        assert watch.lap() == dict.fromkeys(goodput.PARTS, 0.0) | {"step": 3.0}


def test_an_attempt_that_was_killed_has_left_its_time(tmp_path, clock):
    with goodput.Goodput(tmp_path) as watch:
        watch.step(0)
        clock.now += 5
        watch.record(1)
        clock.now += 2
        watch.record(2)  # too soon after: it counts as between
    clock.now += 1
    assert "3.0 s between them" in attempt(tmp_path, clock, 0, 1)[0]


def test_half_a_file_stops_no_run(tmp_path, clock):
    (tmp_path / "goodput.json").write_text('{"seconds": {"in')
    assert attempt(tmp_path, clock, 0, 1)[0].startswith("goodput 8% of 10.0 s: ")


def test_what_jax_compiles_counts_as_compiling_wherever_it_happens(tmp_path):
    begun = time.time()
    with goodput.Goodput(tmp_path, begun) as watch, watch.time("evaluate"):
        jax.jit(lambda x: x * 3 + 1)(1.0)
    assert watch.seconds["compile"] > 0.001 and watch.seconds["evaluate"] > 0
    assert 0 < sum(watch.seconds.values()) <= time.time() - begun
    after = watch.seconds["compile"]
    jax.jit(lambda x: x * 5 + 1)(1.0)
    assert watch.seconds["compile"] == after


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    with goodput.Goodput(tmp_path, writes=False) as watch:
        watch.record(1)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def resumed(stages_dir, tmp_path_factory):
    """(workdir, what it printed) of a pretraining run that stopped at step 8 of 8, of which the
    checkpoint of step 8 is lost; taken up again, steps 7 and 8 are traced."""
    workdir = tmp_path_factory.mktemp("goodput") / "pretrain"
    shutil.copytree(stages_dir / "pretrain", workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    with console.capture() as said:
        loop.run(recipe("pretrain", stages_dir), workdir, one, profile=range(6, 8))
    return workdir, said.get()


def test_a_run_keeps_its_goodput(resumed):
    workdir, said = resumed
    facts = json.loads((workdir / "goodput.json").read_text())
    assert (facts["attempts"], facts["steps"], facts["lost_steps"]) == (2, 8, 2)
    seconds = facts["seconds"]
    assert all(seconds[p] > 0 for p in goodput.PARTS if p != "rollout"), seconds
    assert facts["goodput"] == pytest.approx(seconds["step"] / sum(seconds.values()), abs=1e-3)
    lines = [line for line in said.splitlines() if line.startswith("  goodput")]
    assert len(lines) == 1 and "in 2 attempts" in lines[0] and "(2 steps)" in lines[0]


def test_ppos_rollouts_count_as_good(stages_dir):
    facts = json.loads((stages_dir / "ppo" / "goodput.json").read_text())
    assert facts["seconds"]["rollout"] > facts["seconds"]["data_wait"] > 0
    good = facts["seconds"]["rollout"] + facts["seconds"]["step"]
    assert facts["goodput"] == pytest.approx(good / sum(facts["seconds"].values()), abs=1e-3)


def test_the_profile_holds_the_steps_that_were_asked_for(resumed):
    (path,) = (resumed[0] / "profile").rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    steps = [
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == [7, 8]


@pytest.mark.parametrize("text,steps", [("", range(0)), ("10:13", range(10, 13))])
def test_steps_to_profile(text, steps):
    assert profiling.parse_steps(text) == steps


def test_a_profile_after_the_last_step_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"profile_steps=8:9 is after the run's last step, steps=8"
    ):
        loop.run(RunConfig(steps=8), tmp_path, profile=range(8, 9))


@pytest.mark.parametrize("text", ["10", "13:10", "10:10", "a:b", "-1:3"])
def test_steps_that_cannot_be_are_one_line(text):
    with pytest.raises(ConfigError, match="write FROM:TO, as 10:13 for steps 11, 12 and 13"):
        profiling.parse_steps(text)


def test_the_profiler_answers_and_a_busy_port_is_said():
    with socket.socket() as s:
        s.bind(("", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(ConfigError, match=f"profiler_port={port} is taken"):
            profiling.serve(port, public=True)
    with pytest.raises(ConfigError, match="answers every machine of the network"):
        profiling.serve(port, public=False)
    profiling.serve(port, public=True)
    try:
        socket.create_connection(("localhost", port), 5).close()
    finally:
        jax.profiler.stop_server()
