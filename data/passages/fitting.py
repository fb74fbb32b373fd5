"""Texts cut to a number of tokens in all."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

from data.errors import DataError
from data.text.base import Tokenizer

_WORD = re.compile(r"\s*\S+")


def fit(texts: Sequence[str], most: int, tokenizer: Tokenizer, separator: str) -> list[str]:
    """The texts, the longest cut at the end of a word so that all, with a separator after each,
    have at most `most` tokens; 0 is no limit.

    Raises:
      DataError: there is not room for a word of each.
    """

    def count(text: str) -> int:
        return len(tokenizer.encode(text + separator))

    if not most or not texts:
        return list(texts)
    sizes = [count(text) for text in texts]
    if sum(sizes) <= most:
        return list(texts)
    share = _share(sizes, most)
    out = [t if n <= share else _cut(t, share, count) for t, n in zip(texts, sizes, strict=True)]
    if not all(out):
        raise DataError(
            f"data.passages.tokens={most} has no room for {len(texts)} passages; raise it, or "
            "lower data.passages.number"
        )
    return out


def _share(sizes: Sequence[int], most: int) -> int:
    """The largest size s with Σ min(size, s) ≤ most."""
    left, remaining = most, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            break
        left, remaining = left - size, remaining - 1
    return left // remaining


def _cut(text: str, most: int, count) -> str:
    """The longest beginning of whole words with at most `most` tokens; "" if there is none."""
    ends = [match.end() for match in _WORD.finditer(text)]
    fitting = bisect.bisect_right(ends, most, key=lambda end: count(text[:end]))
    # A passage of which only its "[id]" is left says nothing.
    return text[: ends[fitting - 1]] if fitting > 1 else ""
