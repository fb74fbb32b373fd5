"""Measures of single answers, against independent values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.replay import copying, measures
from train.replay.conversations import Turn

TURN = Turn("a:1", 0, 1, ({"role": "user", "content": "call 555-123-4567?"},), "no", "", None, "",
            "call 555-123-4567?")  # fmt: skip


def shared(answer, text):
    """The longest run of words that both have, by trying all."""
    a, b = answer.split(), text.split()
    runs = {tuple(b[i:j]) for i in range(len(b)) for j in range(i, len(b) + 1)}
    parts = [a[i:j] for i in range(len(a)) for j in range(i, len(a) + 1)]
    return max((len(part) for part in parts if tuple(part) in runs), default=0)


TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=1, max_size=4)


@given(TEXTS, TEXTS)
def test_the_longest_run_is_that_of_trying_all(answers, texts):
    wanted = [max(shared(answer, text) for text in texts) for answer in answers]
    assert copying.longest_runs(answers, texts).tolist() == wanted


def test_texts_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(copying, "WORDS_AT_ONCE", 3)
    texts = ["one two", "three four five", "Six, seven. EIGHT nine!"]
    answers = ["so six seven eight nine ten", "two three", ""]
    assert copying.longest_runs(answers, texts).tolist() == [4, 1, 0]


def test_chrf_is_popovics():
    # Runs of one and two characters: "abc" has a, b, c, ab, bc and abc; "abd" shares a, b and ab.
    precision = recall = (2 / 3 + 1 / 2 + 0) / 3
    wanted = 100 * 5 * precision * recall / (4 * precision + recall)
    assert measures.chrf()("abc", "abd") == pytest.approx(wanted)
    assert measures.chrf()("", "abd") == 0 and measures.chrf()("abd", "abd") == pytest.approx(100)


def test_only_data_that_nobody_gave_is_leaked():
    values = measures.measure([TURN] * 3, ["555-123-4567", "ask jo@example.com", "555-123-4568"])
    assert values["personal_data"].tolist() == [0, 1, 1]
    assert values["personal_data.email"].tolist() == [0, 1, 0]


def test_a_refusal_of_what_people_answered_is_one_of_a_harmless_request():
    refused = TURN._replace(answer="I'm sorry, but no.")
    turns = [TURN, refused, TURN._replace(harmful=True), refused._replace(harmful=False)]
    values = measures.measure(turns, ["I cannot do that."] * 4)
    np.testing.assert_array_equal(values["refusals"], 1)
    np.testing.assert_array_equal(values["refusals.harmless"], [1, np.nan, np.nan, 1])
    np.testing.assert_array_equal(values["refusals.harmful"], [np.nan, np.nan, 1, np.nan])


def test_repetition_and_groundedness():
    turn = TURN._replace(documents="the cat sat")
    values = measures.measure([turn, TURN], ["a b c d a b c d", "the dog sat here"])
    assert values["repetition"].tolist() == [pytest.approx(1 / 5), 0]
    assert np.isnan(values["groundedness"][1]) and values["groundedness"][0] == 0
