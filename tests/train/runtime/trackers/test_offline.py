"""Offline output of trackers, read back by their own libraries: a run stopped and resumed."""

import json
import struct

import pytest

from train.runtime.metrics import Metrics
from train.runtime.trackers.registry import TrackingConfig

SETTINGS = {"optimizer.peak_lr": 1e-3, "source": ["a", "b"], "x": None, "name": "é" * 7000}
LOSS, SAMPLES = "train/loss", [{"prompt": "Why?", "response": "# é\n```", "score": 0.5}]


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """The function that trains the run `runs/first` with a tracker: 3 steps, then from step 2 on
    to its end."""
    monkeypatch.chdir(tmp_path)

    def train(name: str) -> None:
        for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
            tracking = TrackingConfig(project="study", offline=True)
            metrics = Metrics(tmp_path / "runs/first", start, 4, True, (name,), tracking)
            metrics.write_settings(SETTINGS | {"steps": 4 + start})
            for step in steps:
                metrics.write(step, "train", {"loss": 1.0 / step, "grad_norm/hidden": 2.0})
                metrics.write_samples(step, SAMPLES)
            metrics.close()

    return train


def wandb_records(path) -> list:
    """The records of a file of Weights & Biases: read by its own reader, or, where it has none in
    Python any more, in the format of LevelDB's log, and parsed by its own schema."""
    from wandb.proto import wandb_internal_pb2

    try:
        from wandb.sdk.internal import datastore

        store = datastore.DataStore()
        store.open_for_scan(str(path))
        parts = list(iter(store.scan_data, None))
    except ImportError:
        content, at, parts, whole = path.read_bytes(), 7, [], b""
        while at + 7 <= len(content):
            if 32768 - at % 32768 < 7:  # a header does not cross a block
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", content, at)
            whole += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or its last part
                parts.append(whole)
                whole = b""
    records = []
    for part in parts:
        records.append(wandb_internal_pb2.Record())
        records[-1].ParseFromString(part)
    return records


def test_wandb_files_are_read_by_its_reader(tracked, tmp_path, capfd):
    pytest.importorskip("wandb", reason="pip install 'seedpod[wandb]'")
    tracked("wandb")
    assert "wandb" not in capfd.readouterr().err
    files = sorted((tmp_path / "runs/first/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    names, ids, history, config, codes = set(), set(), [], {}, []
    for file in files:
        for record in wandb_records(file):
            if record.HasField("run"):
                names.add((record.run.project, record.run.display_name))
                ids.add(record.run.run_id)
            for item in record.config.update:
                config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            if record.HasField("history"):
                items = record.history.item
                history.append(
                    {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    assert names == {("study", "first")} and len(ids) == 1 and codes == [1, 0]
    assert config["optimizer.peak_lr"] == 1e-3 and config["steps"] == 6
    scalars = [(row["step"], row[LOSS]) for row in history if LOSS in row]
    assert scalars == [(n, 1.0 / n) for n in (1, 2, 3, 3, 4)]
    tables = [row for row in history if "samples.path" in row]
    assert [row["step"] for row in tables] == [1, 2, 3, 3, 4]
    table = files[0].parent / "files" / tables[0]["samples.path"]
    assert json.loads(table.read_text())["data"] == [["Why?", "# é\n```", "0.5"]]


@pytest.mark.slow  # MLflow makes a database in 20 seconds
def test_mlflow_is_read_by_its_client(tracked, tmp_path):
    pytest.importorskip("mlflow", reason="pip install 'seedpod[mlflow]'")
    from mlflow.tracking import MlflowClient

    tracked("mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    history = client.get_metric_history(run.info.run_id, LOSS)
    assert [(m.step, m.value) for m in history] == [(n, 1.0 / n) for n in (1, 2, 3, 3, 4)]
    assert run.data.metrics["train/grad_norm/hidden"] == 2.0
    assert run.data.params["optimizer.peak_lr"] == "0.001" and run.data.params["steps"] == "4"
    assert run.data.tags["changed.steps"] == "6"
    files = {file.path for file in client.list_artifacts(run.info.run_id, "samples")}
    assert files == {f"samples/{step}.md" for step in (1, 2, 3, 4)}


def test_trackio_is_read_by_its_api(tracked, tmp_path, monkeypatch, capfd):
    pytest.importorskip("trackio", reason="pip install 'seedpod[trackio]'")
    from trackio import Api, sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    tracked("trackio")
    said = capfd.readouterr()
    assert said.out == said.err == ""
    (run,) = Api().runs("study")
    assert run.name.startswith("first-") and run.config["optimizer.peak_lr"] == 1e-3
    logs = sqlite_storage.SQLiteStorage.get_logs("study", run.name)
    assert [(r["step"], r[LOSS]) for r in logs if LOSS in r] == [
        (n, 1.0 / n) for n in (1, 2, 3, 3, 4)
    ]
    texts = [r["samples"]["_value"] for r in logs if "samples" in r]
    assert len(texts) == 5 and "Why?" in texts[0]
