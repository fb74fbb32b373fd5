"""Rollouts on record: what is written is what was trained on, and training does not notice."""

import json
import shutil
from collections import Counter

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_ppo
from local_runs import records
from tiny_ppo import EPOCHS, MINIBATCH, PER_ROLLOUT, ROWS, P, R

from model import sharding
from train import loop
from train.config.names import suggest
from train.config.run import keys
from train.rl import record
from train.rl.record import Recorder
from train.rl.rollout import RolloutSource
from train.runtime import outputs
from train.runtime.records import read_metrics


def train(directory, workdir, every, stage="ppo", rollouts=3, devices=2, **settings):
    config = tiny_ppo.recipe(stage, directory, rollouts)
    config.rl.record = every
    config.update(settings)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    loop.run(config, workdir, mesh, open_data=tiny_ppo.OPEN_DATA)


def numbers(workdir):
    return [r for r in records(workdir) if r["kind"] == "train"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("record")
    tiny_ppo.write_origins(directory)
    return directory


@pytest.fixture(scope="module")
def recorded(directory):
    """(workdir of a PPO run that records every second rollout, its minibatches, a rollout)."""
    minibatches, rollouts, take = [], [], RolloutSource.next

    def watched(self, state, frozen, s, step):
        batch, s, metrics = take(self, state, frozen, s, step)
        minibatches.append(jax.device_get(batch))
        rollouts.extend([metrics["record"]] if "record" in metrics else [])
        return batch, s, metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutSource, "next", watched)
        train(directory, directory / "recorded", 2)
    return directory / "recorded", minibatches, rollouts[0]


def read(workdir, step):
    return pq.read_table(record.path(workdir, step)).to_pylist()


def test_every_second_rollout_is_recorded(recorded):
    workdir, *_ = recorded
    names = sorted(file.name for file in (workdir / record.FOLDER).iterdir())
    assert names == ["0.parquet", f"{2 * PER_ROLLOUT}.parquet"]
    notes = json.loads(pq.read_schema(record.path(workdir, 0)).metadata[b"seedpod"])
    assert (notes["step"], notes["rollout"]) == (0, 0)
    assert notes["made"] == f"JAX {jax.__version__}, 2 × cpu"


def test_a_record_holds_what_the_named_updates_took(recorded):
    workdir, minibatches, _ = recorded
    for step in (0, 2 * PER_ROLLOUT):
        rows = read(workdir, step)
        assert len(rows) == ROWS
        for row in rows:
            n = len(row["tokens"])
            assert len(row["updates"]) == EPOCHS and 0 < n <= R
            for update in row["updates"]:
                batch = minibatches[update - 1]
                ids = row["prompt_tokens"] + row["tokens"]
                whole = np.concatenate([[0] * (P - len(row["prompt_tokens"])), ids, [0] * (R - n)])
                real = batch["segment_ids"] > 0
                (index,) = np.flatnonzero(
                    (np.where(real, batch["tokens"], 0) == whole).all(axis=1)
                    & (real.sum(axis=1) == len(ids))
                )[:1]
                for name in set(record.PER_TOKEN) & batch.keys():
                    assert row[name] == batch[name][index, :n].tolist(), name
        counts = np.bincount(np.ravel([row["updates"] for row in rows]) - step)
        assert counts.tolist() == [0] + [MINIBATCH] * PER_ROLLOUT


def test_columns_agree_with_each_other_and_with_the_metrics(recorded):
    workdir, *_ = recorded
    rows, metrics = read(workdir, 0), read_metrics(workdir, "train")[0]
    for row in rows:
        assert row["prompt"] == tiny_ppo.TOKENIZER.decode(row["prompt_tokens"])
        assert row["response"] == tiny_ppo.TOKENIZER.decode(row["tokens"])
        kl = np.subtract(row["old_logprobs"], row["ref_logprobs"], dtype=np.float32)
        np.testing.assert_array_equal(np.float32(row["kl"]), kl)
        assert row["score"] == row["reward/model"]
    gap = max(np.abs(np.subtract(r["old_logprobs"], r["sampler_logprobs"])).max() for r in rows)
    assert gap == pytest.approx(metrics["rollout/logprob_gap_max"], rel=1e-6)
    assert np.mean([r["score"] for r in rows]) == pytest.approx(metrics["rollout/score"], rel=1e-5)


def test_training_is_the_same_bit_for_bit(directory, recorded):
    train(directory, directory / "plain", 0)
    assert numbers(directory / "plain") == numbers(recorded[0])
    assert not (directory / "plain" / record.FOLDER).exists()


def test_a_record_that_fails_ends_no_run(recorded, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "_reported", set())
    monkeypatch.setattr(outputs, "_failed", Counter())
    recorder = Recorder(tmp_path, tiny_ppo.TOKENIZER, jax.make_mesh((1,), ("data",)))
    with monkeypatch.context() as patch:
        patch.setattr(record, "write_atomically", full)
        recorder.write(0, recorded[2])
        recorder.write(4, recorded[2])
    assert outputs._failed == {"rollouts": 2}
    assert "warning: rollouts cannot be written (OSError: No space" in capsys.readouterr().err
    recorder.write(0, recorded[2])
    assert record.path(tmp_path, 0).read_bytes() == record.path(recorded[0], 0).read_bytes()


@pytest.mark.slow
def test_a_resumed_run_of_groups_writes_the_same_records(directory, tmp_path):
    """Without a critic. What a resumed run samples again is dropped first."""
    workdir, every = tmp_path / "run", {"every": PER_ROLLOUT}
    train(directory, workdir, 1, "grpo", rollouts=2, checkpoint=every)
    folder = workdir / record.FOLDER
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sorted(before) == ["0.parquet", f"{PER_ROLLOUT}.parquet"]
    rows = read(workdir, 0)
    assert "returns" not in rows[0] and len({row["prompt"] for row in rows[:4]}) == 1
    shutil.rmtree(workdir / "checkpoints" / str(2 * PER_ROLLOUT))
    for name in (f"{PER_ROLLOUT}.parquet", "99.parquet", "0.parquet.7.tmp"):
        (folder / name).write_bytes(b"stale")
    train(directory, workdir, 1, "grpo", rollouts=2, checkpoint=every)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_old_names_lead_to_the_setting():
    for name in ("ppo.record", "grpo.record", "rl.save_rollouts", "log_completions"):
        assert "rl.record" in suggest(name, keys()), name
