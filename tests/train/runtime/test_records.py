"""metrics.jsonl as it may be found: a damaged line costs no other line, and no run."""

import json

import pytest

from train.runtime import outputs
from train.runtime.metrics import Metrics
from train.runtime.records import read_log, read_metrics, truncate_jsonl

GOOD = [
    json.dumps({"step": step, "kind": kind, "loss": 1.0}).encode()
    for step in (1, 2, 3)
    for kind in ("train", "eval")
]
DAMAGED = {
    "garbage": bytes(range(256)).replace(b"\n", b""),
    "a carriage return": b"\r\r{\r",
    "cut": GOOD[0][:20],
    "a list": b"[1, 2]",
    "a number": b"7",
    "a step that is none": b'{"step": "3", "kind": "train"}',
    "a negative step": b'{"step": -1}',
    "another kind": b'{"step": 1, "kind": 5}',
    "brackets": b"[" * 100_000,
    "digits": b'{"step": ' + b"9" * 5000 + b"}",
    "a huge line": b'{"step": 1, "text": "' + b"x" * (17 << 20) + b'"}',
    "UTF-16": '{"step": 1}'.encode("utf-16"),
    "a merge conflict": b"<<<<<<< HEAD",
    "no record": b"null",
    "failures that are none": b'{"step": 1, "failed": [1]}',
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(outputs, "_reported", set())
    yield
    outputs._failed.clear()


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_set_aside_and_every_good_one_stays(kind, tmp_path, capsys):
    path, bad = tmp_path / "metrics.jsonl", DAMAGED[kind]
    path.write_bytes(b"\n".join([bad, *GOOD[:3], bad, *GOOD[3:], b""]))
    assert len(read_metrics(tmp_path, "train")) == len(read_metrics(tmp_path, "eval")) == 3
    assert "metrics.jsonl has 2 damaged lines (lines 1, 5; the first: " in capsys.readouterr().err
    metrics = Metrics(tmp_path, 2, 9)
    assert metrics.evaluated and metrics.last == {"loss": 1.0}
    metrics.write(3, "train", {"loss": 0.5})
    metrics.close()
    assert path.read_bytes().splitlines()[:4] == GOOD[:4]
    assert [record["step"] for _, record in read_log(path).lines] == [1, 1, 2, 2, 3]
    aside = (tmp_path / "metrics.jsonl.damaged").read_bytes()
    assert aside.count(bad.strip(b"\0\r ")) >= 2
    said = capsys.readouterr().err
    assert said.count("set aside in metrics.jsonl.damaged") == 1 and len(said) < 1000
    Metrics(tmp_path, 3, 9).close()
    assert "damaged" not in capsys.readouterr().err


def test_the_end_of_a_file_may_be_anything(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(GOOD[:2]))  # an editor leaves the last line end out
    assert len(truncate_jsonl(path, 9)) == 2
    path.write_bytes(GOOD[0] + b"\n" + GOOD[1][:-5])  # a record that was not written whole
    assert len(truncate_jsonl(path, 9)) == 1 and path.read_bytes() == GOOD[0] + b"\n"
    path.write_bytes(GOOD[0] + b"\n\0\0\0\0" + GOOD[1] + b"\n\0\0")  # a machine lost power
    assert len(truncate_jsonl(path, 9)) == 2
    assert capsys.readouterr().err == ""


def test_lines_that_cannot_be_set_aside_stay(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    content = b"garbage\n" + GOOD[0] + b"\n"
    path.write_bytes(content)
    (tmp_path / "metrics.jsonl.damaged").mkdir()
    assert len(truncate_jsonl(path, 9)) == 1 and path.read_bytes() == content
    assert "metrics.jsonl cannot be written" in capsys.readouterr().err


def test_a_file_that_is_none_prevents_no_run(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "samples.jsonl").symlink_to(tmp_path / "nowhere" / "samples.jsonl")
    metrics = Metrics(tmp_path, 3, 9)
    assert not metrics.evaluated and metrics.first == {}
    metrics.write(4, "train", {"loss": 1.0})
    metrics.write_samples(4, [{"text": "a"}])
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "nowhere").mkdir()
    metrics.sync()
    assert [r["step"] for r in read_metrics(tmp_path, "train")] == [4]
    metrics.close()
    assert (tmp_path / "nowhere" / "samples.jsonl").exists()
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl cannot be") == 1 and "Traceback" not in said


def test_a_metric_of_another_type_is_none(tmp_path):
    line = b'{"step": 1, "kind": "eval", "loss": "low", "n": true, "x": null, "kl": 2}\n'
    (tmp_path / "metrics.jsonl").write_bytes(line)
    metrics = Metrics(tmp_path, 1, 9)
    assert metrics.first == {"kl": 2} and metrics.evaluated
    metrics.close()


def test_an_evaluation_that_failed_is_made_again_after_a_resume(tmp_path):
    metrics = Metrics(tmp_path, 0, 4)
    metrics.write_samples(2, [{"text": "a"}])
    metrics.write(2, "train", {"loss": 1.0})
    metrics.write(2, "eval", {"wiki/loss": 1.0}, {"": "KeyError: 'a'"})
    metrics.close()
    again = Metrics(tmp_path, 2, 4)
    assert not again.evaluated and again.evaluations == []
    again.close()
    assert read_metrics(tmp_path, "eval") == [] and len(read_metrics(tmp_path, "train")) == 1
    assert (tmp_path / "samples.jsonl").read_bytes() == b""


def test_a_run_that_goes_back_keeps_the_evaluation_of_the_step(tmp_path):
    metrics = Metrics(tmp_path, 0, 9)
    for step in (2, 4):
        metrics.write_samples(step, [{"text": "a"}])
        metrics.write(step, "eval", {"wiki/loss": 1.0}, {"": "KeyError: 'a'"})
    metrics.go_back(2)
    assert [r["step"] for r in metrics.evaluations] == [2]
    metrics.close()
    assert [r["step"] for r in read_metrics(tmp_path, "eval")] == [2]
    assert len(read_log(tmp_path / "samples.jsonl").lines) == 1


def test_a_tracker_that_raises_is_counted(tmp_path, monkeypatch, capsys):
    from train.runtime.trackers.tensorboard import TensorBoard

    def fails(self, *args):
        raise TypeError("no such event")

    monkeypatch.setattr(TensorBoard, "write", fails)
    metrics = Metrics(tmp_path, 0, 9)
    for step in (1, 2):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    assert len(read_metrics(tmp_path, "train")) == 2
    said = capsys.readouterr().err
    assert "tracker tensorboard cannot be written (TypeError: no such event)" in said
    assert "tracker tensorboard could not be written, 2 times in all" in said
