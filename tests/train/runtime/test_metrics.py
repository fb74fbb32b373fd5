"""Logs in an object store, which cannot append: what goes up, what a resume finds."""

import json
import math

import pytest

from train.runtime.metrics import Metrics
from train.runtime.records import read_metrics


def steps_of(text: str) -> list[int]:
    return list(dict.fromkeys(json.loads(line)["step"] for line in text.splitlines()))


def begin(workdir, start: int) -> Metrics:
    return Metrics(workdir, start, 9)


def take(metrics: Metrics, steps) -> None:
    for step in steps:
        metrics.write(step, "train", {"loss": 1.0 / step})
        metrics.write_samples(step, [{"text": f"é {step}"}])
        metrics.write(step, "eval", {"loss": 1.0})


def test_logs_go_up_at_checkpoints_and_a_resume_goes_on_from_there(bucket, tmp_path):
    def there(name):
        return bucket.cat(f"gs://bucket/runs/a/{name}").decode()

    metrics = begin("gs://bucket/runs/a", 0)
    take(metrics, (1, 2))
    assert not bucket.exists("gs://bucket/runs/a/metrics.jsonl")
    metrics.sync()
    assert steps_of(there("metrics.jsonl")) == steps_of(there("samples.jsonl")) == [1, 2]
    take(metrics, (3, 4))
    metrics.sync()
    take(metrics, (5,))  # killed here, and the checkpoint of step 4 was not committed
    assert steps_of(there("metrics.jsonl")) == [1, 2, 3, 4]

    again = begin("gs://bucket/runs/a", 2)
    take(again, (3,))
    again.sync()
    assert steps_of(there("metrics.jsonl")) == steps_of(there("samples.jsonl")) == [1, 2, 3]
    take(again, (4, 5))
    again.close()
    local = begin(tmp_path, 0)
    take(local, (1, 2, 3, 4, 5))
    local.close()
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert steps_of(there(name)) == [1, 2, 3, 4, 5]
    assert there("samples.jsonl") == (tmp_path / "samples.jsonl").read_text()
    remote_records, local_records = (
        read_metrics(place, "train") for place in ("gs://bucket/runs/a", tmp_path)
    )
    assert [r["loss"] for r in remote_records] == [r["loss"] for r in local_records]
    assert [r["elapsed_seconds"] for r in remote_records] == sorted(
        r["elapsed_seconds"] for r in remote_records
    )
    files = bucket.ls("gs://bucket/runs/a", detail=False)
    events = [path for path in files if "/events.out.tfevents." in path]
    assert len(events) == 2 and all(bucket.size(f"gs:/{path}") > 100 for path in events)
    assert [p.name for p in sorted(tmp_path.iterdir())][1:] == ["metrics.jsonl", "samples.jsonl"]


def test_what_is_not_finite_is_null_and_counted(tmp_path):
    metrics = begin(tmp_path, 0)
    metrics.write(1, "train", {"loss": math.nan, "norm": math.inf, "kl": 0.5, "n": 3})
    metrics.write(2, "train", {"loss": 1.0})
    metrics.write_samples(2, [{"text": "a", "score": -math.inf}])
    metrics.close()

    def strict(name):
        lines = (tmp_path / name).read_text().splitlines()
        return [json.loads(line, parse_constant=pytest.fail) for line in lines]

    first, second = strict("metrics.jsonl")
    assert (first["loss"], first["norm"], first["kl"], first["not_finite"]) == (None, None, 0.5, 2)
    assert second["loss"] == 1.0 and "not_finite" not in second
    assert strict("samples.jsonl") == [{"step": 2, "text": "a", "score": None}]
    begin(tmp_path, 1).close()  # a resume reads it
    assert read_metrics(tmp_path, "train")[0]["loss"] is None


def test_a_resumed_run_knows_its_evaluations(tmp_path):
    metrics = begin(tmp_path, 0)
    assert metrics.first == metrics.last == {}
    for step in (0, 5, 9):
        metrics.write(step, "eval", {"loss": 9.0 - step})
    metrics.write(9, "train", {"loss": 1.0})
    metrics.close()
    assert (metrics.first["loss"], metrics.last["loss"]) == (9.0, 0.0)
    again = begin(tmp_path, 6)
    assert (again.first["loss"], again.last["loss"]) == (9.0, 4.0)
