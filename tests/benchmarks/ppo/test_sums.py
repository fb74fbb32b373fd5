"""The sums that GRPO learns, without the learning."""

import json

from benchmarks.ppo import sums
from data import splits
from train.config import run


def test_every_sum_is_there_and_both_stages_hold_the_same_ones_out(tmp_path):
    path = tmp_path / "sums.jsonl"
    sums.write_sums(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 10_000
    assert all(sum(map(int, r["prompt"][:-1].split("+"))) == int(r["response"]) for r in records)
    stages = run.build(sums.sft(path, 8)), run.build(sums.grpo(path, tmp_path, 8))
    read = [
        splits.read_examples(s.data, schema)
        for s, schema in zip(stages, ("chat", "prompt"), strict=True)
    ]
    asked = [{e["messages"][0]["content"] for e in examples.heldout} for examples in read]
    assert asked[0] == asked[1] and len(asked[0]) >= 900
    for examples in read:
        assert asked[0].isdisjoint(e["messages"][0]["content"] for e in examples.train)
