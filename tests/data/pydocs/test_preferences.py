"""The worse replies of pydocs."""

import pytest

from data.pydocs.corpus import Answer
from data.pydocs.preferences import SCOLDINGS, preferences_of, repeat, truncate


def test_truncate_never_leaves_a_whole_sentence():
    assert truncate("Return the sum", "n") == ""
    assert truncate("It works. Or not.", "n") == ""
    assert truncate("Return the sum of both.", "n") in {"Return the", "Return the sum"}


def test_repeat_says_more_of_the_same():
    for seed in map(str, range(20)):
        text = "Return the sum of both numbers."
        repeated = repeat(text, seed)
        assert repeated.startswith("Return") and repeated.endswith("numbers.")
        assert len(repeated.split()) > len(text.split())


def test_a_corpus_of_one_package_has_nothing_far():
    answers = [
        Answer("train", f"m.{f}", "function", "?", f"Return the {f} of all.") for f in ("f", "g")
    ]
    with pytest.raises(ValueError, match="is from m: there is none far"):
        preferences_of(answers)


def test_scoldings_vary():
    assert len(set(SCOLDINGS)) >= 12
    assert 4 <= sum("{name}" in template for template in SCOLDINGS) < len(SCOLDINGS)
