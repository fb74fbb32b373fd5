"""Quality filters: what they measure, and which documents they leave."""

from collections import Counter

import pytest

from data.clean import filters
from data.config import DataConfig
from data.errors import DataError
from data.splits import read_examples


def test_measures():
    assert filters.repetition("a b") == 0
    assert filters.repetition("a b c d e") == 0
    assert filters.repetition("a a a a a") == pytest.approx(2 / 3)  # 3 runs, one distinct
    assert filters.symbols("ab 1!") == pytest.approx(1 / 4)
    assert filters.symbols("हिन्दी") == 0  # vowel signs are marks
    assert filters.symbols(" ") == 0


def test_limits_are_inclusive_and_the_first_failure_counts():
    texts = ["ab", "abc", "abcdef", "!!!!!!!"]
    skipped = Counter()
    limits = {"min_length": 3, "max_length": 6, "max_symbols": 0.5}
    kept = filters.apply([{"text": text} for text in texts], limits, skipped)
    assert [example["text"] for example in kept] == ["abc", "abcdef"]
    assert skipped == {"filter_min_length": 1, "filter_max_length": 1}


def test_a_conversation_is_measured_whole():
    chat = {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}
    assert filters.apply([chat], {"min_length": 5}, Counter()) == [chat]
    assert filters.apply([chat], {"min_length": 6}, Counter()) == []


@pytest.fixture
def source(tmp_path):
    lines = [f"line {i} says {i * 7919}" for i in range(60)] + ["?!" * (i + 2) for i in range(9)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "a.txt")


def test_training_is_filtered_and_the_heldout_set_stays(source):
    plain = read_examples(DataConfig(source), "text")
    examples = read_examples(DataConfig(source, filters={"max_symbols": 0.5}), "text")
    assert examples.heldout == plain.heldout
    assert examples.train == [e for e in plain.train if "?" not in e["text"]]
    assert examples.skipped["filter_max_symbols"] == len(plain.train) - len(examples.train) > 0


def test_nothing_left_is_an_error(source):
    with pytest.raises(DataError, match=r"data\.filters=.*leaves no training"):
        read_examples(DataConfig(source, filters={"min_length": 1000}), "text")


@pytest.mark.parametrize(
    "limits, message",
    [({"min_lenght": 3}, "min_length"), ({"max_symbols": "x"}, r"data\.filters\.max_symbols='x'"),
     ({"max_symbols": -1}, "at least 0"), ({"max_symbols": float("nan")}, "at least 0")],
)  # fmt: skip
def test_bad_settings(limits, message):
    with pytest.raises(ValueError, match=message):
        DataConfig("a.txt", filters=limits)
