"""A benchmark: its requests, what is kept of it, and what is said of items that fail."""

import dataclasses
import json

import pytest
from documentation import ROOT
from etils import epath

from data.errors import DataError
from data.text import tokenizer as tokenizers
from tests.train.tasks.evaluation.fake_scorer import FakeScorer
from train.tasks import registry
from train.tasks.base import Scored
from train.tasks.evaluation import items
from train.tasks.evaluation.benchmark import Benchmark, evaluate, prepare
from train.tasks.evaluation.items import Stored

CAPITALS = ROOT / "examples/evaluate/capitals.yaml"
TOKENIZER = tokenizers.train("byte", [], 0)


@pytest.fixture
def benchmark() -> Benchmark:
    return prepare(registry.find(str(CAPITALS)), (1,), limit=9)[0]


def lines(folder):
    records = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_a_killed_evaluation_goes_on_to_the_same_result(benchmark, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    result = evaluate(FakeScorer(), 0.5, benchmark, TOKENIZER, answered=Stored(whole))
    with pytest.raises(KeyboardInterrupt):
        evaluate(FakeScorer(5), 0.5, benchmark, TOKENIZER, answered=Stored(cut))
    with open(cut / "items.jsonl", "a") as file:
        file.write('{"id": 3, "resp')  # killed while it wrote
    assert [item["id"] for item in lines_so_far(cut)] == [8, 7, 6, 5, 4]

    scorer, counted = FakeScorer(), []
    stored = Stored(cut)
    again = evaluate(
        scorer, 0.5, benchmark, TOKENIZER, answered=stored, count=lambda n, _: counted.append(n)
    )
    # The batch that was interrupted is computed whole, so that its numbers are the same.
    assert scorer.computed == [4, 3, 2, 1, 0] and counted == [3, 2, 1, 0]
    assert again.metrics == result.metrics and again.outcomes == result.outcomes
    assert lines(cut) == lines(whole) and [i["id"] for i in lines(cut)] == list(range(9))
    assert again.seconds == pytest.approx(sum(stored.seconds.values()))
    third = FakeScorer()
    assert evaluate(third, 0.5, benchmark, TOKENIZER, answered=Stored(cut)) == again
    assert not third.computed


def test_items_in_an_object_store_are_uploaded_now_and_then(bucket, benchmark, monkeypatch):
    folder = epath.Path("gs://bucket/evals/a")
    monkeypatch.setattr(items, "UPLOAD_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(FakeScorer(5), 0.5, benchmark, TOKENIZER, answered=Stored(folder))
    scorer = FakeScorer()
    stored = Stored(folder)
    assert sorted(stored.responses) == [4, 5, 6, 7, 8]
    again = evaluate(scorer, 0.5, benchmark, TOKENIZER, answered=stored)
    assert again.metrics == evaluate(FakeScorer(), 0.5, benchmark, TOKENIZER).metrics
    assert scorer.computed == [4, 3, 2, 1, 0] and len(lines(folder)) == 9


def lines_so_far(folder):
    whole = (folder / "items.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole]


def test_the_metrics_follow_from_the_items_alone(benchmark, tmp_path):
    result = evaluate(FakeScorer(), 0.5, benchmark, TOKENIZER, answered=Stored(tmp_path))
    records, task = lines(tmp_path), benchmark.task
    outcomes = [
        task.outcome(item["document"], tuple(Scored(**part) for part in item["response"]))
        for item in records
    ]
    assert outcomes == [item["outcome"] for item in records]
    assert {name: metric(outcomes) for name, metric in task.metrics.items()} == result.metrics
    assert records[0]["request"]["context"].endswith("What is the capital of France?\nAnswer:")
    assert records[0]["request"]["continuations"][2] == " Paris"


def test_a_damaged_line_is_answered_again(benchmark, tmp_path):
    result = evaluate(FakeScorer(), 0.5, benchmark, TOKENIZER, answered=Stored(tmp_path))
    path = tmp_path / "items.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"\0" * 9 + b"\n" + first.replace(b'"greedy"', b'"greedy_"') + b"".join(others)
    )
    stored, scorer = Stored(tmp_path), FakeScorer()
    assert stored.damaged == 2
    again = evaluate(scorer, 0.5, benchmark, TOKENIZER, answered=stored)
    assert scorer.computed == [0] and again.metrics == result.metrics


def test_errors_name_the_task_and_the_item(benchmark):
    def outcome(document, response):
        return {"acc": 1 / (document["gold"] - benchmark.documents[4]["gold"])}

    broken = dataclasses.replace(
        benchmark, task=dataclasses.replace(benchmark.task, outcome=outcome)
    )
    with pytest.raises(DataError, match=r"capitals, item \d: ZeroDivisionError: .* by zero"):
        evaluate(FakeScorer(), 0.5, broken, TOKENIZER)
    with pytest.raises(FloatingPointError, match=r"capitals, item 8: .* log-probability is nan"):
        evaluate(FakeScorer(), float("nan"), benchmark, TOKENIZER)
    bad = dataclasses.replace(benchmark.task, request=lambda document, examples, chat: 1 / 0)
    with pytest.raises(DataError, match=r"capitals, item 0, .*capitals.jsonl:1: ZeroDivision"):
        prepare(bad, (0,))


def test_what_makes_no_difference_is_named_and_what_is_not_scored_counted():
    (asked,) = prepare(registry.find("refusals"), (3,), data=[str(CAPITALS.parent)], chat=True)
    assert (asked.shots, asked.unused, len(asked.requests)) == (0, ("shots",), 16)
    text = [f"wikitext={CAPITALS.with_suffix('.jsonl')}"]
    with pytest.raises(DataError, match="wikitext"):  # and not about too few examples
        prepare(registry.find("wikitext"), (3,), data=text)
    zero, two = prepare(registry.find(str(CAPITALS)), (0, 2))
    assert zero.documents == two.documents and len(zero.documents) == 22
    assert two.notes == ("2 documents are kept for examples, and not scored",)
    assert zero.hashes["documents"] == two.hashes["documents"]
    assert zero.fingerprint() != two.fingerprint()
