"""Verifiers on texts as models write them."""

import functools
import time
from fractions import Fraction

import numpy as np
import pytest

from train.rl import rewards, verifiers
from train.rl.verifiers import final_number


def episode(response, answer="", n=4):
    return rewards.Episode("?", response, np.zeros(1, np.int32), np.zeros(n, np.int32), answer)


@pytest.mark.parametrize(
    "text,number",
    [
        # Without "####": the last number.
        ("7 and then 8", 8), ("no number", None), ("", None), ("42 ####", 42),
        # After "####": the first, of joined terms the last.
        ("3 + 4 = 7. #### 7", 7), ("#### no number 3", 3), ("#### 7, not 8 #### -9", -9),
        ("#### 42 ####", 42), ("##### 42", 42), ("#### 42 apples in 3 boxes", 42),
        ("#### 42\nThere are 3 more.", 42), ("#### 5\n#### so it is", 5), ("#### ####", None),
        ("#### 42 ####\nThere are 3 more.", 42), ("#### 4 #### \n#### 5", 5),
        ("#### so: #### 7", 7),
        ("#### 3 + 4 = 7", 7), ("#### $3 + $4 = $7, of 9", 7),
        # Signs, and what is none.
        ("−5", -5), ("#### −5", -5), ("–5", -5), ("－5", -5), ("= -3", -3), ("5 * -3", -3),
        ("10-3", 3), ("2010-2015", 2015), ("2010–2015", 2015), ("10−3", 3), ("10 - 3", 3),
        ("#### 10-3", 3), ("#### 2010-2015", 2015), ("(10)-3", 3), ("10%-20%", 20),
        ("GPT-4", 4), ("#### +5", 5),
        # Separators, currencies, units.
        ("#### 1,234", 1234), ("1,234,567", 1234567), ("12,34,567", 1234567), ("1\u202f234", 1234),
        ("1, 2, 3", 3), ("1,2", 2), ("the answer is $7.00.", 7),
        ("-$1,234.50", Fraction("-1234.5")),
        ("$-5", -5), ("\\$42", 42), ("50%", 50), ("€1,000", 1000),
        ("#### 100,000 dollars", 100_000),
        # Decimals, fractions, powers of ten.
        ("42.", 42), ("42.0", 42), ("0042", 42), (".5", Fraction(1, 2)), ("-.5", Fraction(-1, 2)),
        ("1/2", Fraction(1, 2)), ("-1/2", Fraction(-1, 2)), ("1 1/2", Fraction(3, 2)), ("1/0", 0),
        ("3/4/2024", 2024), ("1.5e3", 1500), ("1e−2", Fraction(1, 100)), ("1.5 × 10^3", 1500),
        ("2x10^{3}", 2000), ("3e5x", 5), ("٤٢", 42),
    ],
)  # fmt: skip
def test_the_number_that_an_answer_comes_to(text, number):
    assert final_number(text) == number
    assert verifiers.gsm8k(episode(text, f"#### {number}")) == (number is not None)


def test_a_number_of_any_size():
    assert final_number("9" * 5000) == 10**5000 - 1
    assert final_number("1e999") == 10**999


@pytest.mark.parametrize(
    "text",
    [
        "1,23," * 4000,
        "#" * 99_999,
        "#### 1 " * 9999,
        "1 " * 20_000,
        "1/" * 20_000,
        "1" + " " * 30_000,
    ],
)
def test_odd_texts_take_no_longer(text):
    start = time.process_time()
    final_number(text), final_number("####" + text)
    assert time.process_time() - start < 2


def test_a_range_is_not_its_negative_end():
    assert verifiers.gsm8k(episode("2010-2015", "-2015")) == 0
    assert verifiers.gsm8k(episode("10-3", "-3")) == 0


def test_exact_needs_something_to_compare_with():
    assert verifiers.exact(episode(" a  b\n", "a b")) == 1
    assert verifiers.exact(episode("", "")) == verifiers.exact(episode(" ", "\n")) == 0


def test_a_pattern_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(verifiers, "REGEX_SECONDS", 0.1)
    slow = functools.partial(verifiers.regex, settings=verifiers.Regex("(a+)+$"))
    assert slow(episode("b aaa")) == 1
    start = time.process_time()
    failure = rewards.call(slow, episode("a" * 60 + "b"))
    assert time.process_time() - start < 5
    assert failure.text == "raised TimeoutError ('rewards.pattern took longer than 0.1 s')"
    assert slow(episode("")) == 0
