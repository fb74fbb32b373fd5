"""Recorded rollouts replayed from checkpoints: equal bit for bit, or the first difference."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from etils import epath

from ranges import ConfigError
from train import inspect
from train.inspect.records import replay as replaying
from train.rl import record


@pytest.fixture
def workdir(stages_dir, tmp_path):
    """A copy of a PPO run of two rollouts, after 0 and 4 updates, with checkpoints 3, 6 and 8."""
    return shutil.copytree(stages_dir / "ppo", tmp_path / "ppo")


def content(workdir):
    return {p: p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}


def test_a_rollout_and_its_updates_are_repeated_bit_for_bit(workdir):
    before = content(workdir)
    replay = inspect.replay(workdir, 4)
    assert replay.equal, replay
    assert (replay.start, replay.answers, replay.updates) == (3, 32, [5, 6, 7, 8])
    assert replay.metrics > 60
    assert "replayed from checkpoint 3, is equal bit for bit: 32 answers" in repr(replay)
    assert content(workdir) == before


def test_a_number_that_is_not_repeated_is_named(workdir):
    """From the start, where no checkpoint at or before the rollout is left."""
    path = record.path(workdir, 0)
    table = pq.read_table(path)
    rows = table.to_pylist()
    was = rows[5]["old_logprobs"][2]
    rows[5]["old_logprobs"][2] = was - 1e-6
    changed = type(table).from_pylist(rows, table.schema)
    made = table.schema.metadata[b"seedpod"].replace(b" cpu", b" gpu")
    pq.write_table(changed.replace_schema_metadata({"seedpod": made}), path)
    replay = inspect.replay(workdir, 0)
    assert replay.start == 0 and not replay.equal and replay.updates == []
    assert replay.first == replaying.Difference(
        "old_logprobs", 0, 5, 2, pytest.approx(was - 1e-6), was
    )
    assert "replayed from the start, differs first in old_logprobs, row 5, token 2" in repr(replay)
    assert "recorded with JAX" in repr(replay) and "1 × gpu; replayed with" in repr(replay)


def test_metrics_are_compared():
    compare = replaying._compare_metrics
    then = {"step": 3, "loss": 0.5, "ratio": None, "seconds": 3.0}
    assert compare(then, {"loss": 0.5, "ratio": float("inf")}, 3) is None
    assert compare(then, {"loss": 0.5, "ratio": 1.0}, 3) == ("ratio", 3, None, None, None, 1.0)
    difference = compare(then, {"loss": 0.25}, 3)
    assert str(difference) == "metric loss of update 3: recorded 0.5, replayed 0.25"
    assert compare(then, {"entropy": 1.0}, 3).field == "entropy"


def test_what_cannot_be_replayed_is_refused(workdir):
    with pytest.raises(ConfigError, match=r"no rollout of step 3 on record; it has those of 0, 4"):
        inspect.replay(workdir, 3)

    def check(meta=None, changes=(), start=3, step=4):
        replaying._check_straight(workdir, meta or {}, list(changes), start, step)

    check()
    entry = {"at": 9, "to": 3, "in_a_row": 3, "cause": "loss", "past": "the prompts"}
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "kind": "went_back", **entry}) + "\n")
    with pytest.raises(ConfigError, match="went back from step 9 to 3, past data"):
        check()
    check({"went_back": [entry]})  # the checkpoint was saved after it
    check(start=6, step=7)
    change = {"step": 4, "setting": "optimizer.peak_lr", "before": 0.1, "now": 0.2}
    with pytest.raises(ConfigError, match=r"changed optimizer\.peak_lr at step 4, between"):
        check({"went_back": [entry]}, [change])


def test_later_changes_of_settings_are_taken_back(workdir):
    changes = [
        {"step": 6, "setting": "optimizer.peak_lr", "before": 0.125, "now": 0.25},
        {"step": 6, "setting": "optimizer.lr_multipliers.a.b", "before": None, "now": 2.0},
        {"step": 6, "setting": "data", "before": "hash", "now": "other"},
        {"step": 7, "setting": "optimizer.peak_lr", "before": 0.25, "now": 3e-3},
    ]
    path = workdir / "config.json"
    settings = json.loads(path.read_text())
    settings["optimizer"]["lr_multipliers"] = {"a.b": 2.0}
    path.write_text(json.dumps(settings | {"lineage": changes}))
    config = replaying._config(epath.Path(workdir), changes)
    assert config.optimizer.peak_lr == 0.125 and config.optimizer.lr_multipliers == {}
    assert config.rl.record == 1 and config.seed == settings["seed"]
