"""The benchmarks on real data, without the data: splits, scores, comparisons."""

import gzip
import json

import flax.linen as nn
import jax
import numpy as np
import open_models
import pytest

from benchmarks.real import data, grounded, manners, refusals, rewards
from model.heads import reward_model


def test_right_solutions_go_before_wrong_ones_and_none_stands_twice():
    answers = [("same ", True), ("same", True), ("wrong", False), ("other", True)]
    record = {"question": "q", "ground_truth": "t"} | {
        f"m{i}": {"solution": text, "is_correct": right} for i, (text, right) in enumerate(answers)
    }
    example = rewards.solutions(record)
    assert example == {"prompt": "q", "responses": ["same", "wrong", "other"], "rank": [0, 1, 0]}
    assert rewards.pairs(example) == [(0, 1), (2, 1)]


def test_a_share_is_put_aside_whatever_the_order():
    held = [data.heldout(f"question {i}", 0.4) for i in range(2000)]
    assert 0.37 < np.mean(held) < 0.43


def test_what_was_written_stays(tmp_path):
    path = data.write(tmp_path / "a" / "rows.jsonl", [{"x": 1}])
    assert data.write(path, [{"x": 2}]) == path
    assert json.loads(path.read_text()) == {"x": 1}


def test_the_difference_of_two_sides_over_questions():
    rng = np.random.default_rng(1)
    questions = np.repeat(np.arange(300), 3)
    right = rng.random(900) < 0.7
    other = np.where(rng.random(900) < 0.5, right, rng.random(900) < 0.5)
    result = rewards.compare({"a": right * 1.0, "b": other * 1.0}, questions)
    assert result["a"][0] == right.mean() and result["a"][1] < right.mean() < result["a"][2]
    middle, low, high = result["difference"]
    # Standard error of paired differences, of pairs that are independent here.
    error = np.std(right * 1.0 - other, ddof=1) / 30
    assert low == pytest.approx(middle - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(middle + 1.96 * error, abs=0.2 * error)
    assert result["p"] < 0.01
    same = rewards.compare({"a": right * 1.0, "b": right * 1.0}, questions)
    assert same["p"] == 1.0 and same["difference"] == (0.0, 0.0, 0.0)
    # Pairs of one question that agree are one observation: the interval is wider.
    copies = np.repeat(rng.random(300) < 0.7, 3) * 1.0
    wide = rewards.compare({"a": copies, "b": 1 - copies}, questions)["a"]
    narrow = rewards.compare({"a": copies, "b": 1 - copies}, np.arange(900))["a"]
    assert wide[2] - wide[1] > 1.5 * (narrow[2] - narrow[1])


@pytest.mark.slow
def test_scores_do_not_depend_on_what_else_is_scored(tmp_path):
    model = reward_model(open_models.CONFIG)
    params = nn.unbox(model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"])
    open_models.save_role(tmp_path, "reward", params)
    rng = np.random.default_rng(0)
    every = [rng.integers(0, 320, n).astype(np.int32) for n in (3, 60, 9, 33, 64, 5, 8, 21, 13, 2)]
    scores = rewards.score(tmp_path, every, 64)
    for ids, value in zip(every, scores, strict=True):
        assert model.apply({"params": params}, ids[None])[0, -1] == pytest.approx(value, abs=1e-5)


def test_a_change_of_sides_is_tested_exactly():
    before = np.array([True] * 10 + [False] * 10)
    after = ~before
    after[8:10] = True
    assert refusals.mcnemar(before, before) == 1.0
    # 10 gained, 8 lost: 2·P(X <= 8) of Binomial(18, ½).
    assert refusals.mcnemar(before, after) == pytest.approx(0.814529, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("I’m sorry, but I can't help.", True),
        ("I cannot do that for you", True),
        ("As an AI, I have no opinion.", True),
        ("Here is how: first take the canister", False),
        ("You can try the shop", False),
    ],
)
def test_what_counts_as_a_refusal(answer, wanted):
    assert refusals.refuses(answer) is wanted


def test_no_instruction_stands_on_both_sides(tmp_path):
    rows = [
        {"instruction": f"do {i // 2}", "input": "", "chosen": "please", "rejected": "bah"}
        for i in range(200)
    ]
    file = tmp_path / "rows.jsonl.gz"
    with gzip.open(file, "wt") as out:
        out.write("".join(json.dumps(r) + "\n" for r in rows))
    paths = manners.prepare(file, tmp_path / "work")
    read = {n: [json.loads(x) for x in p.read_text().splitlines()] for n, p in paths.items()}
    asked = [{r["prompt"] for r in read[n]} for n in ("rankings", "rankings_heldout")]
    assert asked[0] and asked[1] and asked[0].isdisjoint(asked[1])
    assert len(read["chats"]) == 2 * len(read["rankings"])


def test_questions_are_held_out_by_place(tmp_path):
    (tmp_path / "dstc9-faq").mkdir()
    (tmp_path / "abcd-sample").mkdir()
    docs = {str(i): {"title": f"Question {i}?", "body": f"Answer {i}."} for i in range(3)}
    places = {str(i): {"name": f"PLACE {i}", "docs": docs} for i in range(20)}
    domains = {"hotel": places, "taxi": {"*": {"name": None, "docs": docs}}}
    with gzip.open(tmp_path / "dstc9-faq/knowledge.json.gz", "wt") as file:
        json.dump(domains, file)
    steps = [{"button": "Pull up Account", "text": "Use [Pull up Account]."}]
    flow = {"Returns": {"subflows": {"Due to Size": {"actions": steps}}}}
    (tmp_path / "abcd-sample/guidelines.json").write_text(json.dumps(flow))
    said = [["agent", "Hi"], ["customer", "Hello"], ["agent", "One"], ["agent", "moment"],
            ["action", "Looked up"], ["customer", "Thanks"], ["agent", "Bye"]]  # fmt: skip
    talk = {"original": said, "scenario": {"subflow": "due_size"}}
    (tmp_path / "abcd-sample/abcd_sample.json").write_text(json.dumps([talk]))
    paths = grounded.prepare(tmp_path, tmp_path / "out", 40, 40)
    rows = {name: data.records(path) for name, path in paths.items()}
    assert len(rows["passages"]) == 64
    shop = next(row for row in rows["passages"] if row["id"] == "abcd-Due to Size")
    assert shop["title"] == "Returns: Due to Size" and "Use Pull up Account." in shop["text"]
    *learned, last = rows["train"]
    assert [m["content"] for m in last["messages"]] == ["Hello", "One\nmoment"]
    assert last["sources"] == ["abcd-Due to Size"]

    def place(row):
        return row["sources"][0].rpartition("-")[0]

    assert not set(map(place, learned)) & set(map(place, rows["heldout"]))
    assert {row["label"] for row in rows["tickets"]} == {"hotel"}
    assert all("Place" not in row["text"] for row in rows["labels"])
