"""Scores of generated answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data.errors import DataError
from train.rl.time_limit import time_limit
from train.rl.verifiers import REGEX_SECONDS, VERIFIERS
from train.tasks.base import Document
from train.tasks.rows.forms import Score

NO_MATCH = "[invalid]"  # the answer of a text that a pattern does not match

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def references(document: Document) -> list[str]:
    """The right answers of a document, which may have several."""
    answer = document["answer"]
    return [answer] if isinstance(answer, str) else list(answer)


def exact_match(
    ignore_case: bool = False, ignore_punctuation: bool = False, ignored: Sequence[str] = (),
    extract: str = "", group: int = 0,
) -> Score:  # fmt: skip
    """1 if an answer equals a reference, else 0, as `exact_match` of lm-evaluation-harness.

    Args:
      ignored: regular expressions whose matches are removed from both first.
      extract, group: the part of the answer that is compared (`extracted`).
    """
    patterns = [re.compile(pattern) for pattern in ignored]
    pattern = re.compile(extract) if extract else None

    def plain(text: str) -> str:
        for ignore in patterns:
            text = ignore.sub("", text)
        text = text.lower() if ignore_case else text
        return text.translate(_PUNCTUATION) if ignore_punctuation else text

    def score(text: str, document: Document) -> float:
        answer = plain(extracted(text, pattern, group) if pattern else text)
        return float(any(answer == plain(reference) for reference in references(document)))

    return score


def extracted(text: str, pattern: re.Pattern, group: int = 0) -> str:
    """The match of a pattern in a text by its number, -1 for the last; of a pattern with groups the
    first group that is not empty; NO_MATCH without a match.

    Raises:
      TimeoutError: the search takes longer than REGEX_SECONDS.
    """
    error = TimeoutError(f"the pattern {pattern.pattern!r:.60} took over {REGEX_SECONDS:g} s")
    with time_limit(REGEX_SECONDS, error):
        matches = pattern.findall(text)
    if not matches or not -len(matches) <= group < len(matches):
        return NO_MATCH
    match = matches[group]
    if isinstance(match, tuple):
        match = next(filter(None, match), NO_MATCH)
    return match.strip()


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and double spaces (SQuAD; Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(text: str, document: Document) -> float:
    """The F1 of an answer's words with a reference's, at its largest over references (SQuAD)."""
    return max(_f1(normalised(text).split(), normalised(r).split()) for r in references(document))


def _f1(words: list[str], reference: list[str]) -> float:
    if not words or not reference:
        return float(words == reference)
    common = sum((Counter(words) & Counter(reference)).values())
    return 2 * common / (len(words) + len(reference))


def verified(name: str, settings: Any = None) -> Score:
    """The score of a verifier of RL (train/rl/verifiers.py).

    Args:
      settings: an object with the fields of the verifier's settings; None for their defaults.
    """
    row, arguments = VERIFIERS.find(name, "metrics"), VERIFIERS.arguments(name, settings)

    def score(text: str, document: Document) -> float:
        from train.rl.rewards import Episode  # imports JAX and the model

        reference = references(document)[0]
        episode = Episode(str(document["context"]), text, _NO_IDS, _NO_IDS, reference)  # type: ignore[arg-type]
        return float(row.function(episode, **arguments))

    return score


class _NoIds:
    """The ids of an episode of a benchmark, whose answers are texts: an error where they are
    read."""

    def _raise(self, *_: Any) -> Any:
        raise DataError("this verifier reads token ids, which a benchmark's answers do not have")

    __len__ = __iter__ = __array__ = __getitem__ = _raise


_NO_IDS = _NoIds()
