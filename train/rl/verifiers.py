"""Verifiers: functions that score the text of an episode (train/rl/rewards.py) without a model.

Each is one decorated function. `config.rewards.NAME` is its weight in the score of an answer; its
settings are fields of `config.rewards` too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import ranges
import registry
from ranges import ConfigError, Signed, SizeOr0
from registry import Registry
from train.rl.time_limit import time_limit


class Verifier(NamedTuple):
    """A row of VERIFIERS.

    Attributes:
      function: episode -> score; (episode, settings) -> score if it has settings.
      answer: reference -> whether the verifier can compare with it, for a reference that is not "";
        None if the verifier reads no reference.
      needs: the settings that are required if the verifier has a weight.
    """

    function: Callable
    answer: Callable[[str], bool] | None = None
    needs: tuple[str, ...] = ()


VERIFIERS: Registry[Verifier] = Registry("verifier", "rewards")


def verifier(
    name: str,
    settings: type | None = None,
    answer: Callable[[str], bool] | None = None,
    needs: tuple[str, ...] = (),
) -> Callable[[Callable], Callable]:
    """Decorates the function of a Verifier. `settings` is a frozen dataclass; see Verifier for the
    other arguments."""

    def decorate(function):
        VERIFIERS.register(name, Verifier(function, answer, needs), settings)
        return function

    return decorate


def fields() -> dict:
    """The fields that verifiers add to `config.rewards`: the weight of each, and its settings."""
    return registry.merged(dict.fromkeys(VERIFIERS, (Signed, 0.0)), VERIFIERS.fields())


def validate(rewards: Any) -> None:
    """Validates the settings of verifiers in `config.rewards`.

    Raises:
      ConfigError: a verifier cannot work with them.
    """
    for name, row in VERIFIERS.items():
        VERIFIERS.arguments(name, rewards)
        missing = [setting for setting in row.needs if not getattr(rewards, setting, None)]
        if getattr(rewards, name, 0.0) and missing:
            raise ConfigError(f"rewards.{name} needs --config.rewards.{missing[0]}=VALUE")


# The time limit of a pattern on one answer: some patterns take exponential time on some answers,
# and policies find these answers.
REGEX_SECONDS = 1.0

# A minus after a number, a letter or a bracket is not a sign: 10-3, 2010-2015, GPT-4, (1)-2.
_MINUS = "-−–\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}\N{HYPHEN}\N{NON-BREAKING HYPHEN}"
_CURRENCY = r"\\?[$€£¥₹]?"
_GROUP = "[,\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}]"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}%])[{_MINUS}]{_CURRENCY})?"
    r"(?:"
    # 3/4, 1 1/2
    r"(?:(?P<whole>\d{1,99}) {1,3})?(?<!/)(?P<over>\d{1,99})/(?P<under>\d{0,99}[1-9]\d{0,99})"
    r"(?![\d/])"
    r"|(?P<value>(?:"
    rf"\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)"  # 1,234,567
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"  # 12,34,567
    r"|\d+)(?:\.\d+)?|\.\d+)"
    rf"(?:[eE](?P<e>[+{_MINUS}]?\d{{1,3}})(?![\w])"  # 1.5e3, 1.5 × 10^3
    rf"|\s{{0,3}}[×x*]\s{{0,3}}10\s?\^\s?\{{?(?P<power>[{_MINUS}]?\d{{1,3}})(?!\d))?"
    r")"
)
_OPERATOR = re.compile(rf"\s{{0,3}}%?\s{{0,3}}[{_MINUS}—+*/×x÷=≈]\s{{0,3}}{_CURRENCY}")
# "#### 42 ####" at the end of a line: the text after the second mark is not the answer.
_CLOSED = re.compile(r"(?<!#)####+(?!#)([^#\n]+)####+(?!#)(?=[^\S\n]*$)", re.MULTILINE)


def _value(match: re.Match) -> Fraction:
    """The value of a match of `_NUMBER`."""
    minus = str.maketrans(dict.fromkeys(_MINUS, "-"))
    if match["over"]:
        size = int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    else:
        exponent = (match["e"] or match["power"] or "0").translate(minus)
        digits = Fraction(Decimal(re.sub(_GROUP, "", match["value"])))
        size = digits * Fraction(10) ** int(exponent)
    return -size if match["sign"] else size


def _last_of_first_run(text: str) -> Fraction | None:
    """The first number of a text, or if operators join it to others, the last of these: 42 in "42
    in 3 boxes", 7 in "3 + 4 = 7", 2015 in "2010-2015"."""
    match = _NUMBER.search(text)
    while match:
        operator = _OPERATOR.match(text, match.end())
        following = operator and _NUMBER.match(text, operator.end())
        if not following:
            return _value(match)
        match = following
    return None


def final_number(text: str) -> Fraction | None:
    """The final number of an answer; None if it has none.

    It is the first number after the last "####" that is followed by one (`_last_of_first_run`, if
    operators join several), else the last number of the text. Minus signs of any form, thousands
    separators, currencies, decimals, fractions and powers of ten are parsed; the value of a
    percentage is its number.
    """
    text = _CLOSED.sub(lambda m: f"####{m[1]}" if re.search(r"\d", m[1]) else m[0], text)
    before, *marked = re.split("####+", text)
    for part in reversed(marked):
        if (number := _last_of_first_run(part)) is not None:
            return number
    matches = [*_NUMBER.finditer(before)]
    return _value(matches[-1]) if matches else None


def _has_number(answer: str) -> bool:
    return final_number(answer) is not None


@verifier("gsm8k", answer=_has_number)
def gsm8k(episode: Any) -> float:
    """1 if answer and reference end in the same number (`final_number`; GSM8K, Cobbe et al. 2021,
    arXiv:2110.14168)."""
    number = final_number(episode.response)
    return float(number is not None and number == final_number(episode.answer))


@verifier("exact", answer=bool)
def exact(episode: Any) -> float:
    """1 if the answer equals the reference up to white space, else 0; 0 without a reference."""
    words = episode.answer.split()
    return float(bool(words) and episode.response.split() == words)


@dataclasses.dataclass(frozen=True)
class Regex:
    """Settings of the verifier `regex`.

    Attributes:
      pattern: a regular expression.
    """

    pattern: str = ""

    def __post_init__(self):
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as e:
            raise ConfigError(
                f"rewards.pattern={self.pattern!r:.80} is not a regular expression: {e}"
            ) from e


@verifier("regex", settings=Regex, needs=("pattern",))
def regex(episode: Any, settings: Regex) -> float:
    """1 if `pattern` matches anywhere in the answer, else 0.

    Raises:
      TimeoutError: the search takes longer than `REGEX_SECONDS`.
    """
    error = TimeoutError(f"rewards.pattern took longer than {REGEX_SECONDS:g} s")
    with time_limit(REGEX_SECONDS, error):
        return float(bool(re.search(settings.pattern, episode.response, re.DOTALL)))


@dataclasses.dataclass(frozen=True)
class Length:
    """Settings of the verifier `length`.

    Attributes:
      target_length: in tokens.
    """

    target_length: SizeOr0 = 0

    def __post_init__(self):
        ranges.check(self, "rewards.")


@verifier("length", settings=Length, needs=("target_length",))
def length(episode: Any, settings: Length) -> float:
    """1 at `target_length` tokens, decreasing linearly to 0 at 0 tokens and at twice the target."""
    target = settings.target_length
    return 1 - min(1.0, abs(len(episode.response_ids) - target) / target)
